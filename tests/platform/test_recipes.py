"""The recipes that ship inside the packages."""

from pathlib import Path

import pytest

from footplate.errors import ConfigError
from footplate.job import load_job
from footplate.recipes import find_recipe, list_recipes

NAMES = [recipe.name for recipe in list_recipes()]


def test_recipes_ship_inside_the_packages() -> None:
    assert "copy-transformer" in NAMES
    assert sorted(NAMES) == NAMES
    assert find_recipe("copy-transformer").parts[-3:] == ("footplate_nlp", "recipes", "copy-transformer.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_each_shipped_recipe_says_what_it_is_and_gives_a_job(name: str) -> None:
    (recipe,) = [recipe for recipe in list_recipes() if recipe.name == name]
    job = load_job(name)
    assert 20 < len(recipe.about) <= 120
    assert (job.about, job.task) == (recipe.about, recipe.task)
    assert load_job(recipe.path) == job


@pytest.mark.parametrize("name", NAMES)
def test_each_shipped_recipe_can_be_debugged(name: str) -> None:
    job = load_job(name, debug=True)
    assert (job.debug, job.deterministic) == (True, True)
    assert job.updates <= 20 < load_job(name).updates
    assert getattr(job.config, "batch_tokens", 0) <= 256


def test_a_string_that_looks_like_a_path_is_one(tmp_path: Path) -> None:
    assert find_recipe("mine.yaml") == Path("mine.yaml")
    assert find_recipe("mine.yml") == Path("mine.yml")
    assert find_recipe("recipes/mine") == Path("recipes/mine")
    assert find_recipe(tmp_path) == tmp_path


def test_an_unknown_name_is_told_with_the_nearest_one() -> None:
    listed = "`footplate recipes` lists the names, and a path to a .yaml file will do"
    for name, text in {
        "copy-transfomer": f"recipe 'copy-transfomer': unknown; did you mean copy-transformer? {listed}",
        "zzz": f"recipe 'zzz': unknown; {listed}",
        "": f"recipe '': unknown; {listed}",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load_job(name)
        assert str(caught.value) == text
