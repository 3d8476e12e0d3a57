"""The recipes that ship, mutated: each mutant is a job that says what the mutant says, or is refused line by line.

`MUTATIONS=5000 pytest tests/platform/test_mutated_recipes.py` tries more of them, and others each time.
"""

import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from footplate.document import parse_document, read_document, write_yaml
from footplate.errors import ConfigError
from footplate.job import Job, job_from_yaml, load_job
from footplate.recipes import list_recipes
from footplate.variants import KeyPath

MUTATIONS = int(os.environ.get("MUTATIONS", 0))
RECIPES = {recipe.name: recipe.path for recipe in list_recipes()}
DATA = {name: read_document(path).data for name, path in RECIPES.items()}
FULL = {name: parse_document(load_job(name).to_yaml(), name).data for name in RECIPES}
COMPLAINT = re.compile(r"(mutant\.yaml(:\d+)?|command line): \S.{,700}")

thorough = settings(
    max_examples=MUTATIONS or 700,
    derandomize=not MUTATIONS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
ODD_NUMBERS = [0, 1, -1, 2**63 - 1, -(2**62), 0.5, -0.0, 1e308, float("nan"), float("inf")]
ODD_WORDS = ["", "x", "adam", "paac", "translation", "eval/bleu", "~", "../..", "1e-4", "\x00", "\x85", "é\u2028"]
ODD_SECTIONS = [[], {}, [0.9], [1, 2, 3], {"kind": "adam"}, {"kind": "nothing"}, {"every_updates": 1}, [[]], {"": None}]
ODD_SCALARS = st.one_of(
    st.sampled_from([None, True, False, *ODD_NUMBERS, *ODD_WORDS]),
    st.integers(-3, 10**6),
    st.floats(width=32),
    st.text(max_size=6),
)
ODD_BYTES = st.binary(max_size=4) | st.sampled_from([b"\t", b": ", b"- ", b"&a ", b"*a", b"<<", b"!!x ", b"{", b"'"])


@pytest.fixture(autouse=True, scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("mutants"))
        yield


def paths(data: Any, path: KeyPath = ()) -> list[KeyPath]:
    """Every key and every position, at any depth."""
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [found for key, value in entries for found in [(*path, key), *paths(value, (*path, key))]]


def at(data: Any, path: KeyPath) -> Any:
    for key in path:
        data = data[key]
    return data


def copied(value: Any) -> Any:
    """A copy that shares nothing."""
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    return [copied(entry) for entry in value] if isinstance(value, list) else value


def mutated(name: str, draw: st.DataObject) -> dict[str, Any]:
    """The data of a recipe, or of a job made of it, after one to three accidents."""
    chance = random.Random(draw.draw(st.integers(0, 2**32)))
    data: dict[str, Any] = copied(FULL[name] if chance.random() < 0.3 else DATA[name])
    for _ in range(chance.randint(1, 3)):
        path = chance.choice(paths(data))
        place, key = at(data, path[:-1]), path[-1]
        accident = chance.choice(["value", "value", "delete", "misspell", "splice", "move"])
        if accident == "value":
            place[key] = copied(draw.draw(ODD_SCALARS | st.sampled_from(ODD_SECTIONS)))
        elif accident == "delete":
            del place[key]
        elif accident == "splice":
            other = DATA[chance.choice(sorted(DATA))]
            section = chance.choice(sorted(other))
            data[section] = copied(other[section])
        elif isinstance(place, dict) and accident == "misspell":
            place[misspelt(str(key), chance)] = place.pop(key)
        elif isinstance(place, dict):
            sections = [found for found in paths(data) if isinstance(at(data, found), dict)]
            at(data, chance.choice([(), *sections]))[str(key)] = copied(place[key])
        if not data:
            break
    return data


def misspelt(word: str, chance: random.Random) -> str:
    place = chance.randrange(len(word) + 1)
    return chance.choice(
        [word[:place] + "x" + word[place:], word[:place] + word[place + 1 :], word.upper(), word + "s"]
    )


def load(text: str | bytes, *overrides: str, debug: bool = False) -> Job | None:
    """The job, or None where it is refused: in lines that name their place, and in no other way."""
    Path("mutant.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    try:
        return load_job("mutant.yaml", overrides, debug=debug)
    except ConfigError as error:
        problems = error.problems
    assert problems
    assert [problem for problem in problems if not COMPLAINT.fullmatch(problem)] == []
    return None


def flat(job: Job) -> dict[str, Any]:
    """The job as it stands in a `job.yaml`."""
    dumped = job.model_dump(mode="json")
    return dumped | dumped.pop("config")


def assert_that_it_says(job: Job, data: dict[str, Any]) -> None:
    """Nothing that was written is left out of the job."""
    said = flat(job)
    for path in paths(data):
        assert_equal(said, path, at(data, path))
    assert job_from_yaml(job.to_yaml()) == job


def assert_equal(said: dict[str, Any], path: KeyPath, value: Any) -> None:
    found = at(said, path)
    if not isinstance(value, dict) and path != ("corpus", "folder"):  # a folder becomes absolute
        assert found == (float(value) if isinstance(found, float) else value), path


@thorough
@given(st.sampled_from(sorted(RECIPES)), st.data(), st.booleans())
def test_a_mutated_recipe_is_refused_or_says_all_that_it_says(name: str, draw: st.DataObject, debug: bool) -> None:
    data = mutated(name, draw)
    job = load(write_yaml(data), debug=debug)
    if job is not None and not debug:
        assert_that_it_says(job, data)


@thorough
@given(st.sampled_from(sorted(RECIPES)), st.data())
def test_a_recipe_whose_text_is_damaged_is_refused_or_says_all_that_it_says(name: str, draw: st.DataObject) -> None:
    text = RECIPES[name].read_bytes()
    for _ in range(draw.draw(st.integers(1, 3))):
        first, last = sorted(draw.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        damage = draw.draw(st.sampled_from(["cut", "end", "bytes", "again", "line"]))
        if damage == "cut":
            text = text[:first] + text[min(last, first + 8) :]
        elif damage == "end":
            text = text[:first]
        elif damage == "bytes":
            text = text[:first] + draw.draw(ODD_BYTES) + text[first:]
        elif damage == "again":
            text = text[:last] + text[first:last][:200] + text[last:]
        elif lines := text.splitlines(keepends=True):
            text += lines[first % len(lines)]
    job = load(text)
    if job is not None:
        assert_that_it_says(job, read_document(Path("mutant.yaml")).data)


@thorough
@given(st.sampled_from(sorted(RECIPES)), st.data())
def test_a_random_override_is_refused_or_does_what_it_says(name: str, draw: st.DataObject) -> None:
    path = draw.draw(st.sampled_from(paths(FULL[name])))
    value = draw.draw(ODD_SCALARS)
    path = draw.draw(st.sampled_from([path, path, path, (*path, "x"), (*path[:-1], f"{path[-1]}x")]))
    text = write_yaml({"x": value}).removeprefix("x:").strip()
    changed = load(RECIPES[name].read_bytes(), f"{'.'.join(map(str, path))}={text}")
    if changed is not None:
        assert_equal(flat(changed), path, value)
