"""`run` and `drive`: what is logged, saved and stopped; a run that was cut anywhere ends with the same bytes."""

import json
import logging
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from footplate.checkpoint import CheckpointStore
from footplate.drive import drive
from footplate.errors import FootplateError
from footplate.execution import local_context, run
from footplate.folder import RunFolder, create_run
from footplate.job import Job, load_job
from footplate.launch import find_launcher, launch, newest_checkpoint
from footplate.step import Mean, Step
from footplate.tracking.metrics_file import MEASURED

LINE_TASK = Path(__file__).with_name("line_task.py")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "line.yaml"
    path.write_text(f"task: {LINE_TASK}\nthreads: 1\nbest: {{metric: eval/error, better: lower}}\n")
    return path


def folder_of(tmp_path: Path, job: Job, name: str) -> RunFolder:
    folder = create_run(tmp_path, name, "line")
    folder.job.write_text(job.to_yaml())
    return folder


def weights(folder: RunFolder, update: int) -> bytes:
    return (folder.checkpoints / f"{update:06d}" / "line.safetensors").read_bytes()


def rows(folder: RunFolder, *, timed: bool = False) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return read if timed else [{name: row[name] for name in row if not name.startswith(MEASURED)} for row in read]


def steps_until(job: Job, folder: RunFolder, cut: int) -> None:
    """Run as a kill would leave it: the process goes away between two updates."""
    steps: Iterator[Step] = run(job, local_context(job, folder.path, CheckpointStore(folder.checkpoints).newest()))
    for step in steps:
        if step.activity is None and step.update == cut:
            steps.close()  # type: ignore[attr-defined]
            return


def test_without_a_folder_nothing_is_written(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    updates = [step.update for step in run(load_job(recipe)) if step.activity is None]
    assert updates == list(range(1, 21))
    assert {path for path in set(tmp_path.rglob("*")) - before if "__pycache__" not in path.parts} == set()


def test_a_run_leaves_its_job_its_metrics_its_log_and_its_checkpoints(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe)
    folder = folder_of(tmp_path, job, "run")
    launch(job, folder)
    assert [row["update"] for row in rows(folder)] == list(range(1, 21))
    assert [row["update"] for row in rows(folder) if "eval/error" in row] == [5, 10, 15, 20]
    assert rows(folder)[-1]["points"] == 160
    assert {name for name in rows(folder, timed=True)[-1] if name.startswith("system/")} == {
        "system/0/cores",
        "system/0/memory_gib",
    }
    status = folder.read_status()
    assert (status["state"], status["update"], status["updates"]) == ("finished", 20, 20)
    assert set(CheckpointStore(folder.checkpoints).updates()) >= {15, 20}


def test_rows_can_average_several_updates(recipe: Path, tmp_path: Path) -> None:
    each, fifth = load_job(recipe), load_job(recipe, ["track.every_updates=5"])
    folders = folder_of(tmp_path, each, "each"), folder_of(tmp_path, fifth, "fifth")
    for job, folder in zip((each, fifth), folders, strict=True):
        launch(job, folder)
    every, averaged = rows(folders[0]), rows(folders[1])
    assert [row["update"] for row in averaged] == [5, 10, 15, 20]
    expected = sum(row["train/loss"] for row in every[5:10]) / 5
    assert averaged[1]["train/loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("cut", [1, 4, 5, 7, 19])
@pytest.mark.parametrize("save", ["save.every_updates=3", "save.every_updates=null"])
@pytest.mark.parametrize("track", [1, 4])
def test_a_run_that_was_cut_ends_with_the_same_bytes_and_the_same_rows(
    recipe: Path, tmp_path: Path, cut: int, save: str, track: int
) -> None:
    job = load_job(recipe, [save, f"track.every_updates={track}", "schedule.kind=plateau", "optimizer.kind=adamw"])
    through, resumed = folder_of(tmp_path, job, "through"), folder_of(tmp_path, job, "resumed")
    launch(job, through)
    steps_until(job, resumed, cut)
    launch(job, resumed)
    assert weights(resumed, 20) == weights(through, 20)
    assert rows(resumed) == rows(through)


def test_a_run_that_can_be_saved_only_sometimes_goes_back_to_the_last_of_those(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe, ["stateless_between=10"])
    through, resumed = folder_of(tmp_path, job, "through"), folder_of(tmp_path, job, "resumed")
    launch(job, through)
    steps_until(job, resumed, 17)
    assert CheckpointStore(resumed.checkpoints).updates() == [10]
    launch(job, resumed)
    assert weights(resumed, 20) == weights(through, 20)
    assert rows(resumed) == rows(through)


@pytest.fixture
def looking_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("footplate.record.SECONDS_BETWEEN_LOOKS", 0.0)


@pytest.mark.usefixtures("looking_each_time")
def test_a_stop_file_saves_and_ends_and_the_run_goes_on_as_if_nothing_had_happened(
    recipe: Path, tmp_path: Path
) -> None:
    job = load_job(recipe)
    through, stopped = folder_of(tmp_path, job, "through"), folder_of(tmp_path, job, "stopped")
    launch(job, through)
    for step in run(job, local_context(job, stopped.path)):
        if step.update == 7:
            stopped.stop.write_text("the operator said so")
    status = stopped.read_status()
    assert (status["state"], status["update"], status["reason"]) == ("stopped", 8, "the operator said so")
    assert CheckpointStore(stopped.checkpoints).updates()[-1] == 8
    launch(job, stopped)
    assert weights(stopped, 20) == weights(through, 20)
    assert rows(stopped) == rows(through)


@pytest.mark.usefixtures("looking_each_time")
@pytest.mark.parametrize(("stop_at", "goes"), [(7, "starts over"), (13, "goes back to update 10")])
def test_a_stop_where_nothing_can_be_saved_says_where_the_run_will_go_on(
    recipe: Path, tmp_path: Path, stop_at: int, goes: str
) -> None:
    job = load_job(recipe, ["stateless_between=10"])
    folder = folder_of(tmp_path, job, "run")
    for step in run(job, local_context(job, folder.path)):
        if step.update == stop_at:
            folder.stop.write_text("the operator said so")
    assert (
        folder.log.read_text()
        .splitlines()[-2]
        .endswith(
            f"stopping after update {stop_at + 1}: the operator said so; "
            f"this task cannot be saved here, `footplate resume {folder.path}` {goes}"
        )
    )


@pytest.mark.usefixtures("looking_each_time")
def test_a_stop_that_is_asked_for_during_the_last_update_leaves_a_finished_run(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe)
    folder = folder_of(tmp_path, job, "run")
    for step in run(job, local_context(job, folder.path)):
        if step.update == 19:
            folder.stop.write_text("the operator said so")
    status = folder.read_status()
    assert (status["state"], status["update"], status.get("reason")) == ("finished", 20, None)
    assert CheckpointStore(folder.checkpoints).updates()[-1] == 20


@pytest.mark.parametrize(("save", "said"), [(9, 1), (4, 0)])
def test_a_best_evaluation_without_a_checkpoint_is_said_once(
    save: int, said: int, recipe: Path, tmp_path: Path
) -> None:
    job = load_job(recipe, [f"save.every_updates={save}", "evaluate.every_updates=4"])
    folder = folder_of(tmp_path, job, "run")
    launch(job, folder)
    lines = [line for line in folder.log.read_text().splitlines() if "has the best evaluation" in line]
    assert len(lines) == said
    assert all(
        line.endswith(
            "save: update 4 has the best evaluation so far and no checkpoint, so it can't be kept; evaluate where "
            "checkpoints are saved (save.every_updates)"
        )
        for line in lines
    )


@pytest.mark.usefixtures("looking_each_time")
def test_a_request_to_stop_need_not_be_text(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe)
    folder = folder_of(tmp_path, job, "run")
    for step in run(job, local_context(job, folder.path)):
        if step.update == 7:
            folder.stop.write_bytes(b"f\xfcr heute")
    assert (folder.read_status()["state"], folder.read_status()["reason"]) == ("stopped", "f\ufffdr heute")


def test_where_a_run_goes_on_is_chosen_while_nobody_else_can_train_it(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = load_job(recipe)
    folder = folder_of(tmp_path, job, "run")
    locked = []

    def looked(*arguments: Any) -> Any:
        locked.append(folder.is_locked())
        return newest_checkpoint(*arguments)

    monkeypatch.setattr("footplate.launch.newest_checkpoint", looked)
    launch(job, folder)
    assert locked == [True]
    assert not folder.is_locked()


def test_who_is_refused_leaves_the_request_to_stop_and_says_nothing_of_starting_over(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = load_job(recipe)
    folder = folder_of(tmp_path, job, "run")
    folder.metrics.touch()
    with folder.lock():
        folder.stop.write_text("for whoever trains it")
        with pytest.raises(FootplateError) as refused:
            launch(job, folder)
    assert str(refused.value) == f"{folder.path}: this run is being trained by another process; stop that one first"
    assert folder.stop.read_text() == "for whoever trains it"
    assert capsys.readouterr().out == ""


def test_a_resumed_run_knows_its_best_score_from_the_start(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe)
    folder = folder_of(tmp_path, job, "run")
    steps_until(job, folder, 7)
    best = folder.read_status()["best"]
    for _ in run(job, local_context(job, folder.path, CheckpointStore(folder.checkpoints).newest())):
        assert folder.read_status()["best"] == best
        break


def test_a_run_that_was_killed_between_its_target_and_its_end_makes_no_update_more(
    recipe: Path, tmp_path: Path
) -> None:
    job = load_job(recipe, ["stop.target=100"])
    folder = folder_of(tmp_path, job, "run")
    launch(job, folder)
    folder.write_status({"state": "running", "update": 5})
    launch(job, folder)
    status = folder.read_status()
    assert (status["state"], status["update"]) == ("finished", 5)
    assert [row["update"] for row in rows(folder)] == [1, 2, 3, 4, 5]


def test_what_a_killed_process_was_about_to_put_in_its_place_is_swept(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe)
    folder = folder_of(tmp_path, job, "run")
    (folder.path / ".status-123").write_text("{")
    (folder.path / ".data-abc").mkdir()
    (folder.path / ".data-abc" / "source.tokens").write_bytes(b"half")
    launch(job, folder)
    assert list(folder.path.glob(".*")) == []


def test_a_run_whose_hours_are_over_makes_no_update_more(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe, ["stop.hours=1e-9"])
    folder = folder_of(tmp_path, job, "run")
    launch(job, folder)
    before = folder.read_status()
    assert (before["state"], before["reason"]) == ("stopped", "1e-09 hours of training are over")
    launch(job, folder)
    after = folder.read_status()
    assert [after[name] for name in ("state", "reason", "update")] == [
        before[name] for name in ("state", "reason", "update")
    ]
    job = load_job(recipe)
    launch(job, folder)
    assert folder.read_status()["state"] == "finished"


def test_a_target_ends_the_run_as_finished(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe, ["stop.target=100"])
    folder = folder_of(tmp_path, job, "run")
    launch(job, folder)
    status = folder.read_status()
    assert (status["state"], status["update"]) == ("finished", 5)
    assert CheckpointStore(folder.checkpoints).updates() == [5]


def test_patience_survives_a_kill(recipe: Path, tmp_path: Path) -> None:
    overrides = ["stop.patience_evaluations=3", "stop.minimum_improvement=1000", "updates=100"]
    job = load_job(recipe, overrides)
    through, resumed = folder_of(tmp_path, job, "through"), folder_of(tmp_path, job, "resumed")
    launch(job, through)
    steps_until(job, resumed, 12)
    launch(job, resumed)
    assert through.read_status()["update"] == resumed.read_status()["update"] == 20


def test_an_exception_in_the_task_comes_out_whole_and_the_run_says_failed(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe, ["fail_at=8"])
    folder = folder_of(tmp_path, job, "run")
    with pytest.raises(ValueError, match="the line broke") as raised:
        launch(job, folder)
    assert Path(raised.traceback[-1].path) == LINE_TASK
    status = folder.read_status()
    assert (status["state"], status["error"]) == ("failed", "ValueError: the line broke")
    assert "the line broke" in folder.log.read_text()


def test_damaged_checkpoints_are_passed_over_and_the_end_is_the_same(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe)
    through, resumed = folder_of(tmp_path, job, "through"), folder_of(tmp_path, job, "resumed")
    launch(job, through)
    steps_until(job, resumed, 13)
    (resumed.checkpoints / "000010" / "update.pt").write_bytes(b"")
    launch(job, resumed)
    assert weights(resumed, 20) == weights(through, 20)
    assert rows(resumed) == rows(through)


def test_checkpoints_that_were_passed_over_are_forgotten_before_the_run_goes_on(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe, ["save.keep_last=3", "save.every_updates=5"])
    folder = folder_of(tmp_path, job, "run")
    steps_until(job, folder, 17)
    for damaged in ("000010", "000015"):
        (folder.checkpoints / damaged / "update.pt").write_bytes(b"")
    steps_until(job, folder, 7)
    assert CheckpointStore(folder.checkpoints).updates() == [5]
    launch(job, folder)
    assert CheckpointStore(folder.checkpoints).updates() == [10, 15, 20]


def test_a_run_that_begins_anew_in_a_folder_leaves_the_checkpoints_there(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe, ["save.keep_last=9"])
    folder = folder_of(tmp_path, job, "run")
    steps_until(job, folder, 12)
    for _ in run(job, local_context(job, folder.path)):
        break
    assert CheckpointStore(folder.checkpoints).updates() == [5, 10]


def test_what_is_logged_reaches_the_log_file(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe)
    folder = folder_of(tmp_path, job, "run")
    for step in run(job, local_context(job, folder.path)):
        if step.update == 3:
            logging.getLogger("footplate").info("halfway to somewhere")
    assert "halfway to somewhere" in folder.log.read_text()


def test_process_settings_are_put_back(recipe: Path) -> None:
    import torch

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled()
    steps = run(load_job(recipe, ["threads=1"], debug=True))
    next(steps)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled()) == (
        1,
        True,
        True,
    )
    assert len(list(steps)) > 0
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled()) == before


def test_a_best_metric_that_no_evaluation_has_is_said_once(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe, ["best.metric=eval/eror"])
    folder = folder_of(tmp_path, job, "run")
    launch(job, folder)
    said = [line for line in folder.log.read_text().splitlines() if "best.metric" in line]
    assert len(said) == 1
    assert said[0].endswith("best.metric: eval/eror is not among what was evaluated: eval/error")


def test_a_best_metric_that_is_a_mean_over_nothing_is_not_said_to_be_missing(recipe: Path, tmp_path: Path) -> None:
    def steps() -> Generator[Step, None, None]:
        yield Step(20, {"eval/error": Mean(0.0, 0.0)})

    job = load_job(recipe)
    folder = folder_of(tmp_path, job, "run")
    list(drive(steps(), job, local_context(job, folder.path)))
    assert "best.metric" not in folder.log.read_text()


def test_a_precision_that_only_a_gpu_has_is_said_where_there_is_none(recipe: Path, tmp_path: Path) -> None:
    job = load_job(recipe, ["precision=tf32", "device=cpu"])
    folder = folder_of(tmp_path, job, "run")
    launch(job, folder)
    said = "precision: tf32 is how CUDA GPUs multiply; on cpu this run computes in fp32"
    assert folder.log.read_text().count(said) == 1
    assert folder.read_status()["state"] == "finished"


def test_what_only_a_cluster_has_is_refused_here(recipe: Path) -> None:
    for overrides, message in (
        (["address=auto"], "address: auto is a cluster's, and this job runs here; add --on ray, or drop it"),
        (
            ["resources.gpus_per_worker=4"],
            "resources: are what a cluster reserves, and this job runs here; add --on ray, or drop them",
        ),
    ):
        with pytest.raises(FootplateError) as raised:
            find_launcher(load_job(recipe, overrides))
        assert str(raised.value) == message


def test_without_ray_it_is_said_how_to_get_it(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("ray", "footplate_cluster")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)  # how Python marks a module that cannot be imported
    with pytest.raises(FootplateError) as raised:
        find_launcher(load_job(recipe, ["on=ray"]))
    assert str(raised.value) == "on: ray: not installed; pip install 'footplate[ray]'"


def test_a_notebook_needs_one_import() -> None:
    program = "from footplate import load_job, metric_value, run\n"
    program += "steps = run(load_job('copy-transformer', ['updates=2']))\n"
    program += "print([round(metric_value(s.metrics['train/loss']), 1) for s in steps if s.activity is None])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second = json.loads(done.stdout.splitlines()[-1])
    assert 2 < first < 8
    assert 2 < second < 8
