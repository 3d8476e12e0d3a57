"""The file of a sweep: what it draws, what it refuses, and the jobs that it comes to."""

from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from footplate.document import read_document
from footplate.errors import FootplateError
from footplate.job import load_job
from footplate.recipes import list_sweeps
from footplate.schema import sweep_schema
from footplate.sweeps.plan import load_sweep
from footplate.sweeps.space import Choice, IntegerLogUniform, IntegerUniform, LogUniform, Uniform, draw
from footplate.tasks import load_task

LINE_TASK = Path(__file__).with_name("line_task.py")
LINE = f"task: {LINE_TASK}\nbest: {{metric: eval/error, better: lower}}\n"
RATES = """
recipe: line.yaml
space:
  optimizer.learning_rate: {kind: log_uniform, low: 1e-4, high: 1}
  updates: [10, 20]
search: {kind: random, trials: 6}
"""


def written(tmp_path: Path, text: str, recipe: str = LINE) -> str:
    (tmp_path / "line.yaml").write_text(recipe)
    (tmp_path / "rates.yaml").write_text(text.lstrip())
    return str(tmp_path / "rates.yaml")


def refusal(tmp_path: Path, text: str, *overrides: str, recipe: str = LINE) -> list[str]:
    with pytest.raises(FootplateError) as raised:
        load_sweep(written(tmp_path, text, recipe), overrides)
    return str(raised.value).replace(f"{tmp_path}/", "").splitlines()


def test_a_trial_depends_on_the_seed_and_its_number_alone(tmp_path: Path) -> None:
    plan = load_sweep(written(tmp_path, RATES))
    longer = load_sweep(written(tmp_path, RATES), ["search.trials=9"])
    assert [trial.settings for trial in longer.trials[:6]] == [trial.settings for trial in plan.trials]
    other_space = RATES.replace("  updates:", "  seed: [1, 2]\n  updates:")
    wider = load_sweep(written(tmp_path, other_space))
    for trial, same in zip(plan.trials, wider.trials, strict=True):
        assert trial.settings.items() <= same.settings.items()
    reseeded = load_sweep(written(tmp_path, RATES), ["search.seed=2"])
    assert [trial.settings for trial in reseeded.trials] != [trial.settings for trial in plan.trials]


def test_the_jobs_are_the_recipe_with_what_is_fixed_and_what_is_drawn(tmp_path: Path) -> None:
    text = RATES + "overrides: {evaluate: {every_updates: 7}, optimizer.kind: sgd}\n"
    plan = load_sweep(written(tmp_path, text))
    for trial, job in zip(plan.trials, plan.jobs, strict=True):
        settings = [f"{key}={value!r}" for key, value in trial.settings.items()]
        assert job == load_job(tmp_path / "line.yaml", ["evaluate.every_updates=7", "optimizer.kind=sgd", *settings])


def test_names_say_what_differs(tmp_path: Path) -> None:
    plan = load_sweep(written(tmp_path, RATES), ["search.trials=10"])
    for trial in plan.trials:
        rate, updates = trial.settings["optimizer.learning_rate"], trial.settings["updates"]
        assert trial.name == f"{trial.number:02}-learning_rate={rate},updates={updates}"


def test_a_grid_holds_every_combination_the_last_key_first(tmp_path: Path) -> None:
    optimizers = "[{kind: sgd}, {kind: adam, betas: [0, 0.9]}]"
    text = f"recipe: line.yaml\nspace: {{seed: [1, 2], optimizer: {optimizers}}}\nsearch: {{kind: grid}}\n"
    plan = load_sweep(written(tmp_path, text))
    assert [trial.name for trial in plan.trials] == [
        "1-seed=1,optimizer=sgd",
        "2-seed=1,optimizer=adam-betas-0-0.9",
        "3-seed=2,optimizer=sgd",
        "4-seed=2,optimizer=adam-betas-0-0.9",
    ]
    assert [job.seed for job in plan.jobs] == [1, 1, 2, 2]


def drawn(choice: Choice, count: int = 4000) -> list[Any]:
    return [draw(choice, 1, "a", number) for number in range(count)]


def test_draws_lie_where_they_should_and_as_often() -> None:
    uniform = drawn(Uniform(kind="uniform", low=-1, high=3))
    assert np.quantile(uniform, [0.0, 0.25, 0.5, 1.0]) == pytest.approx([-1, 0, 1, 3], abs=0.1)
    log = np.log10(drawn(LogUniform(kind="log_uniform", low=1e-4, high=1)))
    assert np.quantile(log, [0.0, 0.25, 0.5, 1.0]) == pytest.approx([-4, -3, -2, 0], abs=0.1)
    dice = drawn(IntegerUniform(kind="integer_uniform", low=1, high=6))
    assert np.bincount(dice, minlength=7)[1:] == pytest.approx([4000 / 6] * 6, rel=0.15)
    small = drawn(IntegerLogUniform(kind="integer_log_uniform", low=1, high=3))
    # n is as likely as log((n + 1) / n) of log(4): 1/2, 0.29, 0.21
    assert np.bincount(small)[1:] / 4000 == pytest.approx([0.5, 0.2925, 0.2075], abs=0.03)
    assert np.bincount(drawn((0, 1))) == pytest.approx([2000, 2000], rel=0.1)


def test_drawn_numbers_have_four_digits_and_stay_within_their_bounds() -> None:
    narrow = Uniform(kind="uniform", low=0.123456, high=0.123459)
    values = [draw(narrow, 1, "a", n) for n in range(50)]
    assert all(0.123456 <= value <= 0.123459 for value in values if isinstance(value, float))
    value = draw(Uniform(kind="uniform", low=0, high=1), 1, "a", 1)
    assert f"{value:.4g}" == str(value)


def test_everything_wrong_with_the_file_is_told_at_once(tmp_path: Path) -> None:
    text = """
recipe: line.yaml
spce: {}
space:
  seed: {kind: uniform, low: 1}
  updates: {kind: integer_uniform, low: 9, high: 3}
  track.every_updates: {kind: choice, values: [1, 2]}
search: {kind: random, trials: 0}
scheduler: {kind: asha, grace: 3}
"""
    assert refusal(tmp_path, text) == [
        "rates.yaml:2: spce: unknown key; did you mean space?",
        "rates.yaml:4: space.seed.high: missing; add it",
        "rates.yaml:5: space.updates: low: 9 is not below high: 3; swap them, or set the key in overrides",
        "rates.yaml:6: space.track.every_updates.kind: unknown kind 'choice'; choose one of uniform, log_uniform, "
        "integer_uniform, integer_log_uniform, or write a list of values",
        "rates.yaml:7: search.trials: must be at least 1, got 0",
        "rates.yaml:8: scheduler.grace_updates: missing; add it",
        "rates.yaml:8: scheduler.grace: unknown key; known here: kind, grace_updates, reduction_factor",
    ]


def test_keys_that_the_recipe_does_not_know_are_told_at_their_lines(tmp_path: Path) -> None:
    text = RATES.replace("updates:", "seeed:") + "overrides:\n  evaluate: {every: 3}\n  optimizer.kinds: sgd\n"
    assert refusal(tmp_path, text) == [
        "rates.yaml:4: space: seeed: unknown key; did you mean seed?",
        "rates.yaml:7: overrides: evaluate.every: unknown key; known here: every_updates",
        "rates.yaml:8: overrides: optimizer.kinds: unknown key; did you mean kind?",
    ]


def test_a_value_that_the_recipe_refuses_is_told_with_its_trial_before_any_starts(tmp_path: Path) -> None:
    text = """
recipe: line.yaml
space:
  seed: [1, 2.5, 3]
  optimizer.learning_rate:
    [0.1, 0, -1]
  evaluate.every_updates: [1]
search: {kind: grid}
"""
    assert refusal(tmp_path, text) == [
        "rates.yaml:4: space: optimizer.learning_rate: must be greater than 0, got 0 (trial 2)",
        "rates.yaml:3: space: seed: expected a whole number, got 2.5 (trial 4)",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            (
                "space:\n  optimizer.learning_rate: {kind: log_uniform, low: 1e-4, high: 1}\n  updates: [10, 20]",
                "space: {}",
            ),
            "rates.yaml:2: space: is empty; name a key of the recipe and what it may become, such as seed: [1, 2, 3]",
        ),
        (("[10, 20]", "[]"), "rates.yaml:2: space: updates is an empty list; write the values to choose from"),
        (
            ("updates:", "best.metric:"),
            "rates.yaml:2: space: best.metric is the same for all trials; set it in overrides or in the sweep",
        ),
        (
            ("{kind: random, trials: 6}", "{kind: grid}"),
            "rates.yaml:2: space: optimizer.learning_rate is log_uniform, and a grid takes lists; list its values, "
            "or set search.kind to random",
        ),
        (
            ("search:", "overrides: {updates: 3}\nsearch:"),
            "rates.yaml:5: overrides: updates is fixed here, and updates is in the space too; remove one of them",
        ),
        (
            ("search:", "scheduler: {kind: asha, grace_updates: 10}\nsearch:"),
            "rates.yaml:5: scheduler.grace_updates: 10 is not below the 10 updates of a trial, so none would be "
            "stopped; lower it",
        ),
        (
            ("search:", "overrides: {on: ray}\nsearch:"),
            "rates.yaml: on, address, resources: in RECIPE they say where a run of its own goes, and a trial is one "
            "worker of the sweep; leave them out there, and set the sweep's own resources and address",
        ),
        (
            ("recipe: line.yaml", "recipe: nothing"),
            "recipe 'nothing': unknown; `footplate recipes` lists the names, and a path to a .yaml file will do",
        ),
    ],
)
def test_what_cannot_be_swept_is_refused_in_a_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    said = refusal(tmp_path, RATES.replace(*change))
    assert [line.replace("in line.yaml", "in RECIPE") for line in said] == [message]


def test_a_recipe_that_ranks_nothing_needs_the_metric_from_the_sweep(tmp_path: Path) -> None:
    recipe = f"task: {LINE_TASK}\n"
    [said] = refusal(tmp_path, RATES, recipe=recipe)
    assert said == (
        "rates.yaml: best: line.yaml names no metric to rank trials by; "
        "add best: {metric: NAME} to the sweep, such as eval/loss"
    )
    plan = load_sweep(written(tmp_path, RATES, recipe), ["best={metric: eval/error, better: lower}"])
    assert {(job.best.metric, job.best.better) for job in plan.jobs if job.best} == {("eval/error", "lower")}


def test_a_metric_that_is_never_evaluated_is_refused(tmp_path: Path) -> None:
    text = "recipe: copy-transformer\nbest: {metric: eval/bluu}\nspace: {seed: [1, 2]}\nsearch: {kind: grid}\n"
    assert refusal(tmp_path, text) == [
        "rates.yaml:2: best.metric: eval/bluu is never evaluated by translation; did you mean eval/bleu?"
    ]


def test_a_trial_with_more_processes_than_it_reserves_cores_for_is_refused(tmp_path: Path) -> None:
    text = "recipe: catch-a3c\nspace: {seed: [1, 2], workers: [2, 3]}\nsearch: {kind: grid}\n"
    assert refusal(tmp_path, text) == [
        "rates.yaml: resources.cpus: 1 is too few for a trial of catch-a3c, which is 4 processes, 3 of them actors; "
        "use 4, or keep them in one process (overrides: {processes: false})"
    ]
    for enough in ("resources: {cpus: 4}\n", "overrides: {processes: false}\n"):
        assert len(load_sweep(written(tmp_path, text + enough)).jobs) == 4


def test_a_recipe_is_not_taken_for_a_sweep(tmp_path: Path) -> None:
    assert refusal(tmp_path, LINE) == [
        "rates.yaml: is a recipe; a sweep names one (recipe: rates) and the space to search in"
    ]


def test_the_space_is_not_changed_from_the_command_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, RATES, "space.seed=[1]") == [
        "command line: space.seed: the space is not changed from here; edit rates.yaml"
    ]


def test_the_shipped_sweeps_come_to_jobs_and_fit_their_schema() -> None:
    sweeps = list_sweeps()
    assert {"copy-rates", "cartpole-paac-rates"} <= sweeps.keys()
    for name, path in sweeps.items():
        assert len(load_sweep(name).jobs) >= 8
        jsonschema.validate(read_document(path).data, sweep_schema())


@pytest.mark.parametrize(
    "recipe", ["copy-transformer", "catch-paac", "catch-ppo", "catch-dqn", "catch-a3c", "catch-async-q"]
)
def test_every_task_says_which_metrics_it_evaluates(recipe: str) -> None:
    job = load_job(recipe)
    assert job.best is not None
    assert job.best.metric in load_task(job.task).evaluated_metrics(job.config)  # type: ignore[attr-defined]
