"""From a recipe and overrides to a job: what is filled in, what wins, and what every mistake is told as."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from footplate.document import write_yaml
from footplate.errors import ConfigError
from footplate.job import Job, load_job

TOY = """
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from footplate.section import Count, Every, Fraction, Positive, Section


class Sgd(Section):
    kind: Literal["sgd"] = "sgd"
    learning_rate: Positive
    momentum: Fraction = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self):
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum; set momentum, such as 0.9")
        return self


class Adam(Section):
    kind: Literal["adam"] = "adam"
    learning_rate: Positive
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    epsilon: Positive = 1e-8


class Constant(Section):
    kind: Literal["constant"] = "constant"


class Cosine(Section):
    kind: Literal["cosine"] = "cosine"
    warmup_updates: Count = 10


Optimizer = Annotated[Sgd | Adam, Field(discriminator="kind")]
Schedule = Annotated[Constant | Cosine, Field(discriminator="kind")]


class Model(Section):
    width: Count = 64
    layers: tuple[Count, ...] = (64, 64)
    norm: Literal["pre", "post"] = "pre"
    name: Annotated[str, Field(max_length=8, pattern="^[a-z]*$")] = ""


class Config(Section):
    updates: Count
    model: Model = Model(width=32)
    optimizer: Optimizer = Adam(learning_rate=1e-3, betas=(0.9, 0.98))
    stages: tuple[Schedule, ...] = ()
    evaluate: Every | None = None
    folder: Path | None = None
    batch: int | Literal["auto"] = "auto"
    source: Every | Literal["once"] = "once"
    weights: dict[str, float] = {"bleu": 1.0}
    names: Annotated[tuple[str, ...], Field(min_length=1)] = ("a",)

    @model_validator(mode="after")
    def _even(self):
        if self.updates == 13:
            raise ValueError("updates: 13 brings bad luck; use 14")
        return self


def train(config, context):
    yield


DEBUG_OVERRIDES = {"updates": 5, "model.width": 8, "optimizer.momentum": 0.1, "evaluate.every_updates": 2}
"""
MINIMAL = "task: toy.py\nupdates: 7\n"


@pytest.fixture(autouse=True, scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.py").write_text(TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def load(text: str, *overrides: str, debug: bool = False) -> Job:
    Path("r.yaml").write_text(text)
    return load_job("r.yaml", overrides, debug=debug)


def config(text: str, *overrides: str, debug: bool = False) -> dict[str, Any]:
    return load(text, *overrides, debug=debug).config.model_dump()


def problems(text: str, *overrides: str, debug: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides, debug=debug)
    return caught.value.problems


# What is filled in


def test_a_recipe_holds_only_differences_from_the_defaults_of_its_fields() -> None:
    read = config(MINIMAL + "model: {norm: post}\noptimizer: {learning_rate: 1e-4}\n")
    assert read["model"] == {"width": 32, "layers": (64, 64), "norm": "post", "name": ""}
    assert read["optimizer"] == {"kind": "adam", "learning_rate": 1e-4, "betas": (0.9, 0.98), "epsilon": 1e-8}


def test_another_kind_starts_from_its_own_defaults() -> None:
    read = config(MINIMAL + "optimizer: {kind: sgd, learning_rate: 0.5}\n")
    assert read["optimizer"] == {"kind": "sgd", "learning_rate": 0.5, "momentum": 0.0, "nesterov": False}


def test_keys_of_the_job_and_of_the_task_stand_side_by_side() -> None:
    job = load(MINIMAL + "seed: 3\ntrack: {wandb: {tags: [a, b]}}\n")
    assert (job.seed, job.updates) == (3, 7)
    assert job.track.wandb is not None
    assert job.track.wandb.tags == ("a", "b")


# Overrides


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("updates=1_000", "updates", 1000),
        ("model.width=5", "model", {"width": 5, "layers": (64, 64), "norm": "pre", "name": ""}),
        ("model.layers.1=5", "model", {"width": 32, "layers": (64, 5), "norm": "pre", "name": ""}),
        ("model.layers=[1,2,3]", "model", {"width": 32, "layers": (1, 2, 3), "norm": "pre", "name": ""}),
        ("evaluate.every_updates=4", "evaluate", {"every_updates": 4}),
        ("evaluate={every_updates: 4}", "evaluate", {"every_updates": 4}),
        ("evaluate=", "evaluate", None),
        ("weights.ter=2", "weights", {"bleu": 1.0, "ter": 2.0}),
        ("folder=a=b", "folder", Path("a=b")),
        ("names.0='1e-4'", "names", ("1e-4",)),
    ],
)
def test_an_override_is_read_as_yaml_and_set_inside_the_defaults(override: str, key: str, value: Any) -> None:
    assert config(MINIMAL, override)[key] == value


def test_an_override_wins_over_the_recipe_and_the_last_one_over_those_before() -> None:
    assert config(MINIMAL + "model: {width: 3}\n", "updates=8", "model.width=4", "updates=9")["updates"] == 9


def test_the_order_of_overrides_of_different_keys_does_not_matter() -> None:
    overrides = [
        "model.width=1",
        "model={norm: post}",
        "model.layers.0=2",
        "optimizer.betas.1=0.5",
        "optimizer.kind=adam",
    ]
    recipe = MINIMAL + "optimizer: {kind: sgd, learning_rate: 1}\n"
    read = config(recipe, *overrides)
    assert read["model"] == {"width": 1, "layers": (2, 64), "norm": "post", "name": ""}
    assert read["optimizer"] == {"kind": "adam", "learning_rate": 1.0, "betas": (0.9, 0.5), "epsilon": 1e-8}
    assert config(recipe, *reversed(overrides)) == read


def test_another_kind_drops_what_the_recipe_says_about_the_former_one_and_keeps_what_it_knows() -> None:
    recipe = (
        MINIMAL + "optimizer: {learning_rate: 0.5, betas: [0.5, 0.5]}\nstages: [{kind: cosine, warmup_updates: 3}]\n"
    )
    read = config(recipe, "optimizer.kind=sgd", "stages.0.kind=constant")
    assert read["optimizer"] == {"kind": "sgd", "learning_rate": 0.5, "momentum": 0.0, "nesterov": False}
    assert read["stages"] == ({"kind": "constant"},)


def test_another_kind_does_not_inherit_what_only_a_default_said() -> None:
    assert problems(MINIMAL, "optimizer.kind=sgd") == ["command line: optimizer.learning_rate: missing; add it"]


def test_the_same_kind_again_changes_nothing() -> None:
    assert load(MINIMAL, "optimizer.kind=adam") == load(MINIMAL)


def test_another_kind_does_not_hide_a_misspelt_key_or_an_override_of_the_former_kind() -> None:
    recipe = MINIMAL + "optimizer: {learning_rate: 0.5, momentom: 0.5}\n"
    assert problems(recipe, "optimizer.kind=sgd", "optimizer.betas=[0, 0]") == [
        "r.yaml:3: optimizer.momentom: unknown key; did you mean momentum?",
        "command line: optimizer.betas: kind sgd has no such key (adam would); remove it",
    ]


# --debug


def test_debug_shrinks_the_job_and_the_users_overrides_still_win() -> None:
    job = load(MINIMAL, "model.width=16", "deterministic=false", debug=True)
    assert (job.debug, job.deterministic, job.updates) == (True, False, 5)
    assert job.config.model_dump()["model"]["width"] == 16


def test_debug_leaves_alone_what_is_off_and_what_another_kind_has() -> None:
    read = config(MINIMAL, debug=True)
    assert read["evaluate"] is None
    assert "momentum" not in read["optimizer"]
    sgd = config(MINIMAL + "optimizer: {kind: sgd, learning_rate: 1}\nevaluate: {every_updates: 9}\n", debug=True)
    assert sgd["optimizer"]["momentum"] == 0.1
    assert sgd["evaluate"] == {"every_updates": 2}


def test_a_mistake_in_a_tasks_debug_overrides_is_told() -> None:
    Path("typo.py").write_text(TOY + "DEBUG_OVERRIDES = {'model.widht': 8}\n")
    assert problems("task: typo.py\nupdates: 7\n", debug=True) == [
        "DEBUG_OVERRIDES of the task: model.widht: unknown key; did you mean width?"
    ]


# Mistakes, each in the exact words that the user reads


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("sead: 3", "sead: unknown key; did you mean seed?"),
        ("modle: {width: 3}", "modle: unknown key; did you mean model?"),
        ("learning_rate: 3", "learning_rate: unknown key; did you mean optimizer.learning_rate?"),
        ("wandb: {project: a}", "wandb: unknown key; did you mean track.wandb?"),
        ("model: {widht: 3}", "model.widht: unknown key; did you mean width?"),
        ("model: {zzz: 3}", "model.zzz: unknown key; known here: width, layers, norm, name"),
        ("optimizer: {betsa: [0, 0]}", "optimizer.betsa: unknown key; did you mean betas?"),
        ("optimizer: {momentum: 0.9}", "optimizer.momentum: kind adam has no such key (sgd would); remove it"),
        ("track: {wandb: {projct: a}}", "track.wandb.projct: unknown key; did you mean project?"),
        ("stages: [{kind: cosine, warm_up: 3}]", "stages.0.warm_up: unknown key; did you mean warmup_updates?"),
        ("model: {width: abc}", "model.width: expected a whole number, got the string 'abc'"),
        ("model: {width: '8'}", "model.width: expected a whole number, got the string '8'"),
        ("model: {width: 1.5}", "model.width: expected a whole number, got 1.5"),
        ("model: {width: 1e2}", "model.width: expected a whole number, got 100.0; write 100"),
        ("model: {width: true}", "model.width: expected a whole number, got true"),
        ("model: {width: }", "model.width: expected a whole number, got null"),
        ("model: {width: 0}", "model.width: must be at least 1, got 0"),
        ("model: {layers: [1, a]}", "model.layers.1: expected a whole number, got the string 'a'"),
        ("model: {layers: 3}", "model.layers: expected a list, got 3"),
        ("model: {norm: pree}", "model.norm: expected 'pre' or 'post', got the string 'pree'; did you mean pre?"),
        ("model: {name: abcdefghi}", "model.name: must have at most 8 characters, got the string 'abcdefghi'"),
        ("model: {name: A}", "model.name: must match the pattern ^[a-z]*$, got the string 'A'"),
        ("model: [1]", "model: expected a mapping, got a list"),
        ("model:", "model: expected a mapping, got null"),
        ("about: 3", "about: expected a string, got 3"),
        ("about: [" + "a, " * 99 + "]", "about: expected a string, got a list"),
        ("seed: " + "a" * 50, "seed: expected a whole number, got the string '" + "a" * 37 + "...'"),
        ("debug: yes", "debug: expected true or false, got the string 'yes'"),
        ("on: rai", "on: expected 'here' or 'ray', got the string 'rai'; did you mean ray?"),
        ("threads: 0", "threads: must be at least 1, got 0"),
        ("stop: {hours: -1}", "stop.hours: must be greater than 0, got -1"),
        ("stop: {target: .inf}", "stop.target: must be a finite number, got inf"),
        ("stop: {target: .nan}", "stop.target: must be a finite number, got nan"),
        ("best: {better: lower}", "best.metric: missing; add it"),
        ("optimizer: adam", "optimizer: expected a mapping, got the string 'adam'; write {kind: adam}"),
        ("optimizer: 3", "optimizer: expected a mapping, got 3"),
        ("optimizer: {kind: adm}", "optimizer.kind: unknown kind 'adm'; choose one of sgd, adam; did you mean adam?"),
        ("optimizer: {kind: x}", "optimizer.kind: unknown kind 'x'; choose one of sgd, adam"),
        ("optimizer: {kind: 3}", "optimizer.kind: unknown kind, got 3; choose one of sgd, adam"),
        ("optimizer: {kind: [a]}", "optimizer.kind: unknown kind, got a list; choose one of sgd, adam"),
        ("optimizer: {kind: sgd}", "optimizer.learning_rate: missing; add it"),
        ("stages: [{}]", "stages.0.kind: missing; choose one of constant, cosine"),
        ("optimizer: {betas: [0.5]}", "optimizer.betas.1: missing; add it"),
        ("optimizer: {betas: [0, 0, 0]}", "optimizer.betas: takes at most 2 entries, got 3"),
        ("optimizer: {betas: [0, 2]}", "optimizer.betas.1: must be at most 1, got 2"),
        ("names: []", "names: needs at least 1 entries, got 0"),
        ("batch: x", "batch: expected a whole number or 'auto', got the string 'x'"),
        ("source: 3", "source: expected a mapping or 'once', got 3"),
        ("source: {every_updates: 0}", "source.every_updates: must be at least 1, got 0"),
        ("weights: {a: b}", "weights.a: expected a number, got the string 'b'"),
        ("folder: 3", "folder: expected a string, got 3"),
        ("optimizer: {kind: sgd, learning_rate: 1, nesterov: true}",
         "optimizer: nesterov needs momentum; set momentum, such as 0.9"),
        ("'a\\nb': 3", "a\\nb: unknown key; known here: "),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_with_its_place(line: str, problem: str) -> None:
    found = problems(MINIMAL + "about: x\n" * (not line.startswith("about")) + line)
    place = f"r.yaml:{3 if line.startswith('about') else 4}: "
    assert len(found) == 1
    assert found[0].startswith(place + problem) if problem.endswith(": ") else found[0] == place + problem


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("model.widht=3", "model.widht: unknown key; did you mean width?"),
        ("optimzer.kind=sgd", "optimzer: unknown key; did you mean optimizer?"),
        ("model.width=abc", "model.width: expected a whole number, got the string 'abc'"),
        ("updates=", "updates: expected a whole number, got null"),
        ("optimizer.kind=adm", "optimizer.kind: unknown kind 'adm'; choose one of sgd, adam; did you mean adam?"),
        ("model.layers.7=3", "model.layers.7: model.layers is a list of 2; its entries are numbered from 0"),
        ("model.layers.x=3", "model.layers.x: model.layers is a list of 2; its entries are numbered from 0"),
        ("updates.x=3", "updates.x: updates is 7, which has no keys; set updates itself"),
        ("updates", "'updates': expected key=value, such as seed=2"),
        ("=3", "'=3': expected key=value, such as seed=2"),
        ("a..b=3", "'a..b=3': expected key=value, such as seed=2"),
        ("about=[a", "about: not valid YAML (expected ',' or ']', but got '<stream end>'); check the indentation and "
         "the quotes there"),
        ("about={a: 1, a: 2}", "about: a: given twice (first in line 1); remove one"),
        ("about=!!python/name:os.system", "about: the tag !!python/name:os.system is not allowed; write a plain value"),
    ],
)  # fmt: skip
def test_each_mistake_in_an_override_is_one_line(override: str, problem: str) -> None:
    assert problems(MINIMAL, override) == [f"command line: {problem}"]


def test_a_section_that_an_override_spoils_is_blamed_on_the_override() -> None:
    recipe = MINIMAL + "optimizer: {kind: sgd, learning_rate: 1}\n"
    assert problems(recipe, "optimizer.nesterov=true") == [
        "command line: optimizer: nesterov needs momentum; set momentum, such as 0.9"
    ]


def test_a_task_that_refuses_the_whole_is_quoted_where_the_key_that_it_names_was_written() -> None:
    assert problems("task: toy.py\nupdates: 13\n") == ["r.yaml:2: updates: 13 brings bad luck; use 14"]
    assert problems(MINIMAL, "updates=13") == ["command line: updates: 13 brings bad luck; use 14"]


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    recipe = "task: toy.py\nupdats: 5\nmodel:\n  widht: 3\n  norm: x\noptimizer:\n  kind: adm\nseed: 1.5\n"
    assert problems(recipe, "threads=0", "nonsense", "stop.hours=a") == [
        "r.yaml: updates: missing; add it",
        "r.yaml:2: updats: unknown key; did you mean updates?",
        "r.yaml:4: model.widht: unknown key; did you mean width?",
        "r.yaml:5: model.norm: expected 'pre' or 'post', got the string 'x'",
        "r.yaml:7: optimizer.kind: unknown kind 'adm'; choose one of sgd, adam; did you mean adam?",
        "r.yaml:8: seed: expected a whole number, got 1.5",
        "command line: threads: must be at least 1, got 0",
        "command line: stop.hours: expected a number, got the string 'a'",
        "command line: 'nonsense': expected key=value, such as seed=2",
    ]


def test_what_is_wrong_with_the_text_does_not_hide_what_is_wrong_with_the_values() -> None:
    recipe = "task: toy.py\nupdates: 7\nmodel: {norm: x}\nupdates: 8\nseed: !mine 3\nsead: 4\n"
    assert problems(recipe, "thread=1", "model.layers.7=3") == [
        "r.yaml:3: model.norm: expected 'pre' or 'post', got the string 'x'",
        "r.yaml:4: updates: given twice (first in line 2); remove one",
        "r.yaml:5: seed: the tag !mine is not allowed; write a plain value",
        "r.yaml:6: sead: unknown key; did you mean seed?",
        "command line: thread: unknown key; did you mean threads?",
        "command line: model.layers.7: model.layers is a list of 2; its entries are numbered from 0",
    ]
    assert problems("task: !mine a\nseed: x\n") == [
        "r.yaml:1: task: the tag !mine is not allowed; write a plain value",
        "r.yaml:2: seed: expected a whole number, got the string 'x'",
    ]


def test_keys_that_do_not_fit_together_are_blamed_on_the_one_that_was_given_on_the_command_line() -> None:
    check = "def check(job):\n    raise ValueError('model.width: is odd, but stages.0.kind is even; change one')\n"
    Path("fussy.py").write_text(TOY + check)
    recipe = "task: fussy.py\nupdates: 7\nmodel: {width: 3}\nstages: [{kind: constant}]\n"
    problem = "model.width: is odd, but stages.0.kind is even; change one"
    assert problems(recipe) == [f"r.yaml:3: {problem}"]
    assert problems(recipe, "model.width=5") == [f"command line: {problem}"]
    assert problems(recipe, "model={width: 5}") == [f"command line: {problem}"]
    assert problems(recipe, "model.norm=post", "updates=8") == [f"r.yaml:3: {problem}"]


def test_other_mistakes_do_not_hide_what_the_task_has_against_the_job() -> None:
    Path("wary.py").write_text(
        TOY + "def check(job):\n    if job.save.keep_last < 2:\n        raise ValueError('save.keep_last: keep two')\n"
    )
    assert problems("task: wary.py\nupdates: 7\nupdats: 7\n", "save.keep_last=1", "nonsense") == [
        "r.yaml:3: updats: unknown key; did you mean updates?",
        "command line: save.keep_last: keep two",
        "command line: 'nonsense': expected key=value, such as seed=2",
    ]


# Whatever stands in a recipe

SMALL = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(width=16)
    | st.sampled_from(["sgd", "auto", "", "x", "\x85"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["kind", "width", "0", "x y"]), inner),
    max_leaves=4,
)
VALID = {
    "task": "toy.py",
    "seed": 3,
    "on": "here",
    "best": {"metric": "eval/bleu"},
    "stop": {"target": 0.5, "hours": 2},
    "track": {"wandb": {"tags": ["a"]}},
    "updates": 5,
    "model": {"width": 3, "layers": [1, 2]},
    "optimizer": {"kind": "sgd", "learning_rate": 0.5},
    "stages": [{"kind": "cosine", "warmup_updates": 3}, {"kind": "constant"}],
    "batch": 4,
    "source": {"every_updates": 3},
    "weights": {"a": 1.0},
}


def mutated(data: dict[str, Any], draw: st.DataObject, chance: random.Random) -> dict[str, Any]:
    """Some keys renamed, removed, added or given another value, at any depth."""
    mutant = json.loads(json.dumps(data))
    for _ in range(chance.randint(1, 3)):
        place: Any = mutant
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(place[key], dict | list) and chance.random() < 0.7:
                place = place[key]
                continue
            action = chance.choice(["value", "remove", "rename"])
            if action == "value":
                place[key] = draw.draw(SMALL)
            elif action == "remove":
                del place[key]
            elif isinstance(place, dict):
                place[chance.choice([str(key) + "s", "kind", "width", "task", "\n"])] = place.pop(key)
            break
    return mutant  # type: ignore[no-any-return]


def job_or_problems(recipe: dict[str, Any], *overrides: str) -> Job | list[str]:
    try:
        return load(write_yaml(recipe), *overrides)
    except ConfigError as error:
        return error.problems


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.randoms(use_true_random=False))
def test_a_recipe_gives_a_job_or_a_config_error_whatever_stands_in_it(
    draw: st.DataObject, chance: random.Random
) -> None:
    outcome = job_or_problems(mutated(VALID, draw, chance))
    if isinstance(outcome, Job):
        assert load(outcome.to_yaml()) == outcome
    else:
        assert outcome
        assert all("\n" not in problem and problem.startswith("r.yaml") for problem in outcome)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        ["model", "model.layers.0", "optimizer.kind", "track.wandb.tags.0", "seed.x", "stages.1.kind", "é.0"]
    ),
    st.text(max_size=8) | st.sampled_from(["sgd", "[", "{}", "&a [*a]", "- 1"]),
)
@example("optimizer", "kind: sgd")
def test_an_override_gives_a_job_or_a_config_error_whatever_it_says(key: str, value: str) -> None:
    outcome = job_or_problems(VALID, f"{key}={value}")
    assert isinstance(outcome, Job) or (outcome and all("\n" not in problem for problem in outcome))
