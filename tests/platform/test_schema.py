"""The JSON schema of recipes: what editors accept is what the loader accepts."""

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from footplate.document import parse_document, read_document
from footplate.errors import ConfigError, FootplateError
from footplate.job import load_job
from footplate.recipes import list_recipes
from footplate.schema import job_schema

TASK = """
from typing import Annotated, Literal
from pydantic import Field
from footplate.section import Count, Positive, Section

class Sgd(Section):
    kind: Literal["sgd"] = "sgd"
    learning_rate: Positive

class Adam(Section):
    kind: Literal["adam"] = "adam"
    learning_rate: Positive
    epsilon: Positive = 1e-8

class Stop(Section):
    word: str
    \"\"\"What ends a sentence; not to be confused with the job's section of this name.\"\"\"

class Config(Section):
    updates: Count
    \"\"\"How many updates.\"\"\"
    optimizer: Annotated[Sgd | Adam, Field(discriminator="kind")] = Adam(learning_rate=1e-3)
    end: Stop | None = None
    default: int = 1
    discriminator: str = ""

def train(config, context):
    yield
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("toy.py").write_text(TASK)


def accepts(schema: dict[str, Any], text: str) -> bool:
    return Draft202012Validator(schema).is_valid(parse_document(text, "r.yaml").data)


def loads(text: str) -> bool:
    Path("r.yaml").write_text(text)
    try:
        load_job("r.yaml")
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize(
    ("lines", "valid"),
    [
        ("updates: 3", True),
        ("updates: 3\nseed: 4\nstop: {hours: 3}\nend: {word: x}", True),
        ("updates: 3\noptimizer: {epsilon: 1e-4}", True),
        ("updates: 3\noptimizer: {kind: sgd, learning_rate: 1}", True),
        ("updates: 3\ntrack: {wandb: {tags: [a]}}\ndefault: 3\ndiscriminator: x", True),
        ("seed: 4", False),
        ("updates: 0", False),
        ("updates: 3\nsead: 4", False),
        ("updates: 3\noptimizer: {kind: adm}", False),
        ("updates: 3\noptimizer: {kind: sgd, learning_rate: 1, epsilon: 1}", False),
        ("updates: 3\nend: {hours: 3}", False),
        ("updates: 3\nend: {}", False),
        ("updates: 3\nstop: {word: x}", False),
        ("updates: 3\non: rai", False),
        ("updates: 3\nconfig: {updates: 3}", False),
    ],
)
def test_the_schema_agrees_with_the_loader(lines: str, valid: bool) -> None:
    schema = job_schema("toy.py")
    Draft202012Validator.check_schema(schema)
    assert accepts(schema, f"task: toy.py\n{lines}\n") == valid
    assert loads(f"task: toy.py\n{lines}\n") == valid


def test_the_schema_tells_what_each_key_means() -> None:
    schema = job_schema("toy.py")
    assert schema["properties"]["updates"]["description"] == "How many updates."
    assert schema["properties"]["seed"]["description"] == "Every random number of the run follows from it."
    assert schema["title"] == "Footplate recipe (toy.py)"
    assert "config" not in schema["properties"]
    assert "Job" not in schema["$defs"]


def test_every_shipped_recipe_fits_the_schema_of_its_task_and_that_of_all_tasks() -> None:
    everything = job_schema()
    Draft202012Validator.check_schema(everything)
    for recipe in list_recipes():
        data = read_document(recipe.path).data
        assert list(Draft202012Validator(job_schema(recipe.task)).iter_errors(data)) == [], recipe.name
        assert Draft202012Validator(everything).is_valid(data), recipe.name
        assert not Draft202012Validator(everything).is_valid(data | {"task": "another"})


def test_the_whole_of_a_job_fits_the_schema() -> None:
    for recipe in list_recipes():
        written = parse_document(load_job(recipe.path).to_yaml(), "job.yaml").data
        assert list(Draft202012Validator(job_schema(recipe.task)).iter_errors(written)) == [], recipe.name


def test_an_unknown_task_has_no_schema() -> None:
    with pytest.raises(FootplateError) as caught:
        job_schema("tranlation")
    assert str(caught.value).startswith("schema: unknown task 'tranlation'; choose one of ")
    assert str(caught.value).endswith("; did you mean translation?")
