"""What a sweep's folder comes to: states, ranks, files, importance, the picture, and what is said meanwhile."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from footplate.commands import resume
from footplate.errors import FootplateError, TrainingError
from footplate.folder import open_run
from footplate.job import read_job
from footplate.runs import list_runs
from footplate.sweeps.folder import SweepFolder, find_sweep_folder, write_sweep
from footplate.sweeps.importance import explained, group, importances
from footplate.sweeps.launch import resume_sweep, start_sweep
from footplate.sweeps.picture import Scale
from footplate.sweeps.plan import load_sweep
from footplate.sweeps.progress import SweepProgress, halving_reason
from footplate.sweeps.results import require_success, results_table, show_sweep
from footplate.sweeps.space import LogUniform

LINE_TASK = Path(__file__).with_name("line_task.py")
SWEEP = """
recipe: line.yaml
overrides: {track.wandb: {}}
space: {seed: [1, 2, 3], optimizer: [{kind: adam}, {kind: sgd}]}
search: {kind: grid}
scheduler: {kind: asha, grace_updates: 5}
"""
ERRORS: list[tuple[str, float | None]] = [
    ("finished", 0.5),
    ("finished", 0.25),
    ("halved", 0.75),
    ("failed", None),
    ("stopped", 1.0),
    ("waiting", None),
]


def make_sweep(tmp_path: Path, name: str = "rates") -> SweepFolder:
    (tmp_path / "line.yaml").write_text(f"task: {LINE_TASK}\nbest: {{metric: eval/error, better: lower}}\n")
    (tmp_path / "sweep-file.yaml").write_text(SWEEP)
    plan = load_sweep(str(tmp_path / "sweep-file.yaml"))
    (tmp_path / name).mkdir()
    return write_sweep(tmp_path / name, plan.sweep, plan.trials, plan.jobs)


@pytest.fixture
def sweep(tmp_path: Path) -> SweepFolder:
    """One trial of each state; eval/error, the lower the better."""
    sweep = make_sweep(tmp_path)
    for trial, (state, score) in zip(sweep.trials, ERRORS, strict=True):
        status: dict[str, Any] = {"state": state, "update": 10, "updates": 20, "seconds": 61.0}
        if score is not None:
            status["best"] = {"metric": "eval/error", "value": score}
        if state == "halved":
            status |= {"state": "stopped", "reason": halving_reason("eval/error", 0.75, 10, 3)}
        elif state == "stopped":
            status["reason"] = "Ctrl-C"
        elif state == "failed":
            status["error"] = "TrainingError: gradients:\nnot finite"
        if state != "waiting":
            sweep.folder(trial).write_status(status)
    return sweep


def test_a_sweep_is_resumed_where_its_file_says_and_nowhere_else(sweep: SweepFolder) -> None:
    with pytest.raises(FootplateError) as raised:
        resume(sweep.name, str(sweep.path.parent), address="auto")
    assert str(raised.value) == ("resume: --address is for a run; a sweep goes on where its file says; leave it out")


def test_states_and_scores_are_those_of_the_run_folders(sweep: SweepFolder) -> None:
    assert [(standing.state, standing.score) for standing in sweep.standings()] == ERRORS
    assert [standing.trial.number for standing in sweep.standings() if standing.is_over] == [1, 2, 3]
    assert [standing.trial.number for standing in sweep.ranked()] == [2, 1, 3, 5, 4, 6]


def test_a_sweep_is_read_back_as_it_was_written(sweep: SweepFolder, tmp_path: Path) -> None:
    again = find_sweep_folder("rates", tmp_path)
    assert again is not None
    assert (again.sweep, again.trials) == (sweep.sweep, sweep.trials)
    assert find_sweep_folder("line.yaml", tmp_path) is None


def test_trials_are_run_folders_of_one_group_with_one_thread_for_each_core(sweep: SweepFolder) -> None:
    jobs = [read_job(sweep.folder(trial).job) for trial in sweep.trials]
    assert {job.track.wandb.group for job in jobs if job.track.wandb} == {"rates"}
    assert {(job.threads, job.on) for job in jobs} == {(1, "here")}
    assert [(job.seed, job.config.optimizer.kind) for job in jobs[:2]] == [(1, "adam"), (1, "sgd")]  # type: ignore[attr-defined]


def test_runs_lists_a_sweep_among_the_runs_and_trials_as_runs(sweep: SweepFolder, tmp_path: Path) -> None:
    assert list_runs(tmp_path) == [("rates", "sweep of line", "stopped", "3/6 trials", "eval/error 0.25")]
    rows = list_runs(sweep.path)
    assert [row[0] for row in rows] == [trial.name for trial in sweep.trials]
    assert rows[-1][2:] == ("waiting", "0/20", "")


def test_a_sweep_is_not_taken_for_a_run(sweep: SweepFolder, tmp_path: Path) -> None:
    with pytest.raises(FootplateError) as raised:
        open_run("rates", tmp_path)
    assert str(raised.value) == (
        f"rates: is a sweep; name one of its trials, which `footplate runs --runs {tmp_path}/rates` lists"
    )


def test_the_table_is_ranked_and_says_what_became_of_each_trial(sweep: SweepFolder) -> None:
    columns, rows = results_table(sweep, sweep.ranked())
    assert columns == ["rank", "trial", "eval/error", "state", "updates", "time", "seed", "optimizer"]
    assert rows[0] == ["1", "2", "0.25", "finished", "10", "1:01", "1", "sgd"]
    assert rows[2] == ["3", "3", "0.75", "stopped by ASHA", "10", "1:01", "2", "adam"]
    assert rows[4] == ["", "4", "", "failed", "10", "1:01", "2", "sgd"]


def test_showing_writes_json_csv_and_a_picture(sweep: SweepFolder, capsys: pytest.CaptureFixture[str]) -> None:
    show_sweep(sweep)
    output = capsys.readouterr().out
    assert "rates: 6 trials, 2 finished, 1 stopped by ASHA, 1 stopped, 1 failed, 1 waiting; best " in output
    content = json.loads((sweep.path / "sweep.json").read_text())
    assert content["trials"][0]["settings"] == {"seed": 1, "optimizer": {"kind": "sgd"}}
    assert [trial["rank"] for trial in content["trials"]] == [1, 2, 3, 4, None, None]
    with (sweep.path / "sweep.csv").open() as file:
        [first, *_] = csv.DictReader(file)
    assert (first["run"], first["score"], first["seed"]) == ("2-seed=1,optimizer=sgd", "0.25", "1")
    assert imread(sweep.picture).std() > 0.05


def test_a_sweep_without_a_score_cannot_be_shown(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    with pytest.raises(FootplateError) as raised:
        show_sweep(sweep)
    assert str(raised.value) == (
        f"{sweep.path}: no trial has a score yet; wait for the first evaluation, or see its log.txt for what went wrong"
    )


def test_a_sweep_of_which_all_trials_failed_ends_with_a_line(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    require_success(sweep)  # nothing has run
    for trial in sweep.trials:
        sweep.folder(trial).write_status({"state": "failed", "update": 3, "error": "ValueError: the\nline broke"})
    with pytest.raises(TrainingError) as raised:
        require_success(sweep)
    assert str(raised.value) == (
        "rates: none of 6 trials has a score; 1-seed=1,optimizer=adam: ValueError: the line broke; "
        f"see {sweep.path}/1-seed=1,optimizer=adam/log.txt"
    )


def test_a_name_that_is_taken_is_refused(sweep: SweepFolder, tmp_path: Path) -> None:
    plan = load_sweep(str(tmp_path / "sweep-file.yaml"))
    with pytest.raises(FootplateError) as raised:
        start_sweep(plan, "rates", tmp_path)
    assert str(raised.value) == (
        f"{tmp_path}/rates: a run of this name exists; choose another --name, or `footplate resume {tmp_path}/rates`"
    )


def test_a_sweep_at_a_url_is_refused(sweep: SweepFolder, tmp_path: Path) -> None:
    plan = load_sweep(str(tmp_path / "sweep-file.yaml"))
    with pytest.raises(FootplateError) as raised:
        start_sweep(plan, None, "s3://bucket/runs")
    assert str(raised.value) == (
        "--runs s3://bucket/runs: a sweep is kept in a folder on a disk that every node sees, not at a URL; use a path"
    )


def test_a_sweep_that_is_over_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make_sweep(tmp_path)
    for trial in sweep.trials:
        sweep.folder(trial).write_status({"state": "finished", "update": 20})
    resume_sweep(sweep)
    assert capsys.readouterr().out == "rates: all 6 trials are over, nothing to do\n"


def test_progress_tells_each_event_in_a_line(sweep: SweepFolder) -> None:
    said: list[str] = []
    progress = SweepProgress(sweep, said.append)
    first, second, third, fourth, fifth, sixth = sweep.trials
    progress.began(sixth, 0)
    progress.began(fifth, 10)
    progress.scored(fifth, 12, 0.3)  # 0.25 leads
    progress.scored(fifth, 14, float("nan"))
    progress.scored(fifth, 16, 0.2)
    progress.scored(fifth, 18, 0.1)  # it led already
    progress.scored(second, 18, 0.05)
    progress.lost_its_worker(first)
    for trial in (first, third, fourth):
        progress.ended(sweep.standing(trial))
    sweep.folder(sixth).write_status({"state": "running", "update": 4})
    with sweep.folder(sixth).lock():
        progress.ended(sweep.standing(sixth), "this run is being trained by another process")
    assert said == [
        "trial 6 starts: seed 3, optimizer sgd",
        "trial 5 goes on from update 10: seed 3, optimizer adam",
        "trial 5 leads after 16 updates: eval/error 0.2",
        "trial 2 leads after 18 updates: eval/error 0.05",
        "trial 1 lost its worker process, and goes on from its newest checkpoint in another",
        "trial 1 finished after 10 updates (1:01): eval/error 0.5",
        "trial 3 stopped by ASHA after 10 updates (1:01): eval/error 0.75",
        "trial 4 failed after 10 updates (1:01): TrainingError: gradients: not finite",
        "trial 6 is left alone after 4 updates (0:00): this run is being trained by another process",
    ]


def test_a_trial_whose_processes_die_again_and_again_has_failed(sweep: SweepFolder) -> None:
    trial = sweep.trials[4]
    sweep.give_up(trial)
    standing = sweep.standing(trial)
    assert (standing.state, standing.update, standing.score) == ("failed", 10, 1.0)
    assert standing.problem == "its worker process died again and again, such as for want of memory"


def test_importance_worked_by_hand() -> None:
    ranks = np.array([1.0, 2.0, 3.0, 4.0])
    # Within {1, 2} and {3, 4}: 0.5 + 0.5 over 4 - 2 degrees of freedom; of all: 5 over 3.
    assert explained([0, 0, 1, 1], ranks) == pytest.approx(1 - (1 / 2) / (5 / 3))
    # Within {1, 4} and {2, 3}: 4.5 + 0.5, more than chance would leave.
    assert explained([0, 1, 1, 0], ranks) == 0.0
    assert explained([0, 0, 0, 0], ranks) == 0.0
    assert explained([0, 1, 2, 3], ranks) == 0.0
    assert group([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == [0, 0, 1, 1, 2, 2]
    assert group([3, 1, 3, 2]) == [0, 1, 0, 2]
    assert group([{"kind": "a"}, {"kind": "b"}, {"kind": "a"}, None, True]) == [0, 1, 0, 2, 3]


def test_importance_finds_an_optimum_in_the_middle_and_no_more_than_chance_elsewhere() -> None:
    random = np.random.default_rng(3)
    rate, noise = random.uniform(-4, 0, 40), random.uniform(0, 1, 40)
    scores = -((rate + 2) ** 2) + 0.1 * random.normal(size=40)
    found = importances({"rate": rate.tolist(), "noise": noise.tolist()}, scores.tolist())
    assert found["rate"].share > 0.5
    assert found["rate"].is_beyond_chance
    assert not found["noise"].is_beyond_chance
    assert importances({"rate": [1, 2, 3, 4, 5]}, [1.0, 2.0, 3.0, 4.0, 5.0]) == {}


def test_the_axes_of_the_picture_run_from_low_to_high() -> None:
    scale = Scale(LogUniform(kind="log_uniform", low=1e-4, high=1e-2))
    assert [scale.height(value) for value in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert [text for _, text in scale.ticks] == ["0.0001", "0.00032", "0.001", "0.0032", "0.01"]
    numbers = Scale((64, 32, 128))
    assert [numbers.height(value) for value in (32, 64, 128)] == [0, 0.5, 1]
    assert Scale(({"kind": "adam"},)).height({"kind": "adam"}) == 0.5


def test_a_damaged_trial_hides_neither_the_other_trials_nor_the_other_runs(tmp_path: Path, sweep: SweepFolder) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "job.yaml").write_text("task: translation\n")
    (tmp_path / "alone" / "status.json").write_text('{"state":"finished","update":1,"best":{"value":1}}')
    sweep.folder(sweep.trials[0]).status.write_text('{"state": "finished", "update": 20, "seconds": "x"}')
    sweep.folder(sweep.trials[1]).status.write_text('{"state": "finished", "update": NaN}')
    states = [standing.state for standing in sweep.standings()]
    assert states == ["waiting", "waiting", "halved", "failed", "stopped", "waiting"]
    rows = {row[0]: row[2:] for row in list_runs(tmp_path)}
    assert rows["alone"] == ("unknown", "0", "")
    assert rows["rates"] == ("stopped", "1/6 trials", "eval/error 0.75")


def test_a_trial_whose_best_is_damaged_is_named(sweep: SweepFolder) -> None:
    job = sweep.folder(sweep.trials[0]).job
    job.write_text("task: x\nbest: {better: lower}\n")
    with pytest.raises(FootplateError) as raised:
        sweep.ranked()
    assert str(raised.value) == f"{job}: its `best` is damaged, so that the trials can't be ranked; mend it"
