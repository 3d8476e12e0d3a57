"""No key of a recipe does nothing: each is read by the code, and one that another kind would read is refused."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from footplate.config import JOB_FIELDS
from footplate.errors import ConfigError
from footplate.job import load_job
from footplate.recipes import list_recipes
from footplate.section import Section
from footplate.tasks import load_task, task_names
from footplate.variants import Fields, kinds, sections

ROOT = Path(__file__).parents[2]
RECIPE_OF = {recipe.task: recipe.name for recipe in list_recipes()}
TOLD = {"kind", "about"}
"""Keys that choose a section, or that are for people to read: nothing needs to ask for them by name."""

Choice = tuple[str, Mapping[str, type[Section]], tuple[str, ...]]


def fields_of(task: str) -> Fields:
    return {**JOB_FIELDS, **load_task(task).Config.model_fields}


def unions(fields: Fields, path: str = "", chosen: tuple[str, ...] = ()) -> Iterator[Choice]:
    """Each choice between kinds: its path, its kinds, and the overrides with which it is there to be made."""
    for name, field in fields.items():
        here, variants = f"{path}{name}", kinds(field.annotation)
        if variants:
            yield here, variants, chosen
        for section in sections(field.annotation):
            kind = next((kind for kind, variant in variants.items() if variant is section), None)
            more = () if kind is None else (f"{here}.kind={kind}",)
            yield from unions(section.model_fields, f"{here}.", (*chosen, *more))


def every_section(fields: Fields) -> set[type[Section]]:
    found = {section for field in fields.values() for section in sections(field.annotation)}
    return found.union(*(every_section(section.model_fields) for section in found))


CHOICES = [(task, *union) for task in task_names() for union in unions(fields_of(task))]


@pytest.mark.parametrize(("task", "path", "variants", "chosen"), CHOICES, ids=[f"{c[0]}:{c[1]}" for c in CHOICES])
def test_a_key_of_another_kind_is_refused(
    task: str, path: str, variants: Mapping[str, type[Section]], chosen: tuple[str, ...]
) -> None:
    keys = {key for section in variants.values() for key in section.model_fields}
    for kind, section in variants.items():
        foreign = sorted(keys - {*section.model_fields})
        overrides = [*chosen, f"{path}.kind={kind}", *(f"{path}.{key}=1" for key in foreign)]
        said = problems(RECIPE_OF[task], overrides)
        for key in foreign:
            others = ", ".join(other for other in variants if key in variants[other].model_fields)
            expected = f"command line: {path}.{key}: kind {kind} has no such key ({others} would); remove it"
            assert expected in said


def problems(recipe: str, overrides: list[str]) -> list[str]:
    try:
        load_job(recipe, overrides)
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.parametrize("task", task_names())
def test_every_key_is_read_somewhere(task: str) -> None:
    read = {name for package in PACKAGES for path in package.rglob("*.py") for name in attributes(path)}
    assert [key for key in fields_of(task) if key not in read | TOLD] == []
    for section in every_section(fields_of(task)):
        assert [key for key in section.model_fields if key not in read | TOLD] == [], section


PACKAGES = [ROOT / "platform/footplate", ROOT / "nlp/footplate_nlp", ROOT / "rl/footplate_rl", ROOT / "cluster"]


def attributes(path: Path) -> set[Any]:
    """The names that are read off anything, as in `config.name`."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


@pytest.mark.parametrize(
    ("recipe", "overrides", "problem"),
    [
        ("copy-transformer", "average=3", "average: 3 checkpoints, but save.keep_last: 2 keeps fewer; "
         "train with save.keep_last=3, or average fewer"),
        ("copy-transformer", "plateau_metric=bleu", "plateau_metric: bleu is watched by a plateau, and "
         "schedule.kind is linear; set that to plateau, or leave this out"),
        ("copy-transformer", "optimizer.no_decay=false", "optimizer: no_decay: false without weight_decay does "
         "nothing; set weight_decay above 0"),
        ("copy-transformer", "stop.minimum_improvement=0.5", "stop.minimum_improvement: 0.5 is what "
         "patience_evaluations counts by, and there is none; set it too, or leave this out"),
        ("copy-transformer", "save.keep_best=3 best=", "save.keep_best: 3 needs a metric to tell the best by; "
         "add best: {metric: NAME}, and better: lower for one such as eval/loss"),
        ("cartpole-paac", "environment.timeout_seconds=5", "environment: timeout_seconds is for environments in "
         "processes of their own; set processes to true, or leave it out"),
    ],
)  # fmt: skip
def test_a_key_that_would_do_nothing_beside_the_others_is_refused(recipe: str, overrides: str, problem: str) -> None:
    assert problems(recipe, overrides.split()) == [f"command line: {problem}"]
