"""Recipes that ship inside packages: `recipes/*.yaml` of each package named in the group `footplate.recipes`.

Sweeps ship beside them, as `sweeps/*.yaml`.
"""

from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from footplate.document import read_document
from footplate.errors import ConfigError
from footplate.problems import did_you_mean

GROUP = "footplate.recipes"


@dataclass(frozen=True)
class Recipe:
    """A shipped recipe: its name, its one-line description, its task and its file."""

    name: str
    about: str
    task: str
    path: Path


def list_recipes() -> list[Recipe]:
    """Every shipped recipe, in alphabetical order."""
    recipes = []
    for name, path in sorted(_paths().items()):
        data = read_document(path).data
        recipes.append(Recipe(name, str(data.get("about", "")), str(data.get("task", "")), path))
    return recipes


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe: a `Path`, or a string that looks like one, as it is; any other string is a shipped name."""
    if isinstance(recipe, Path) or recipe.endswith((".yaml", ".yml")) or "/" in recipe:
        return Path(recipe)
    return _find("recipe", recipe, _paths())


def list_sweeps() -> dict[str, Path]:
    """The name and the file of every shipped sweep, in alphabetical order."""
    return dict(sorted(_paths("sweeps").items()))


def find_sweep(sweep: str) -> Path:
    """The file of a sweep, as `find_recipe` finds recipes."""
    if sweep.endswith((".yaml", ".yml")) or "/" in sweep:
        return Path(sweep)
    return _find("sweep", sweep, _paths("sweeps"))


def _find(what: str, name: str, paths: dict[str, Path]) -> Path:
    if name in paths:
        return paths[name]
    close = did_you_mean(name, paths).removeprefix("; ")
    listed = "`footplate recipes` lists the names, and a path to a .yaml file will do"
    raise ConfigError([f"{what} {name[:80]!r}: unknown; {f'{close} ' if close else ''}{listed}"])


def _paths(folder_name: str = "recipes") -> dict[str, Path]:
    paths = {}
    for package in sorted({entry.value for entry in entry_points(group=GROUP)}):
        spec = find_spec(package)  # finds the package without importing it, and torch with it
        for folder in (spec and spec.submodule_search_locations) or []:
            for path in Path(folder, folder_name).glob("*.yaml"):
                paths[path.stem] = path
    return paths
