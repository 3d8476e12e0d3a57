"""Which modules of the user a job needs: those that it names, and what they import, below the working directory.

task: line.py, environment.name: maze.Maze -> line.py, maze/*.py, and geometry.py, which maze imports
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from footplate.errors import FootplateError
from footplate.job import Job
from footplate.tasks import look_here, task_names
from footplate_cluster.wheel import shipped_packages

_DOTTED = re.compile(r"([A-Za-z_]\w*)(\.[A-Za-z_]\w*)*([.:])[A-Za-z_][\w-]*")
"""`package.module.Class`, or gymnasium's `module:Name-v0`."""


def own_modules(job: Job) -> dict[str, Path]:
    """The user's top-level modules and packages that the job needs, by name: a `.py` file, or a package's folder."""
    look_here()
    file = Path(job.task) if job.task.endswith(".py") else None
    places = [Path.cwd()] if file is None else [Path.cwd(), file.parent]
    found: dict[str, Path] = {}
    wanted = _named(job)
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        path = file if file is not None and name == file.stem else _own_path(name, places)
        if path is not None:
            found[name] = path
            wanted += [module for source in _sources(path) for module in _imports(source)]
    return found


def as_sent(job: Job) -> Job:
    """The job with its task named as on the cluster: a module, where it is a path here. Raises FootplateError."""
    if not job.task.endswith(".py"):
        return job
    name = Path(job.task).stem
    if not name.isidentifier():
        raise FootplateError(
            f"task: {Path(job.task).name}: is sent as a module, and {name!r} is no name for one; rename it"
        )
    return job.model_copy(update={"task": name})


def hidden_module(name: str) -> str | None:
    """What a top-level module of this name would hide on the cluster, where uploads are found first; None: nothing."""
    if name in sys.stdlib_module_names:
        return "the standard library's"
    return "the installed" if name in _packages_of_footplate() else None


@cache
def _packages_of_footplate() -> frozenset[str]:
    """The top-level modules of Footplate, Ray, and what both need."""
    needed = {re.split(r"[^\w.-]", line)[0] for line in requires("footplate") or [] if "extra ==" not in line}
    needed = {_normal(name) for name in needed | {"ray", "wandb"}}
    distributions = packages_distributions().items()
    installed = {name for name, owners in distributions if needed & {_normal(owner) for owner in owners}}
    return frozenset(installed | set(shipped_packages()))


def _normal(distribution: str) -> str:
    return re.sub("[-_.]+", "-", distribution).lower()


def _named(job: Job) -> list[str]:
    """The top-level names of the job's task, and of every dotted name among its values."""
    named = [Path(job.task).stem] if job.task.endswith(".py") else []
    if not named and job.task not in task_names():
        named = [job.task.partition(".")[0]]
    texts = [text for text in _texts(job.config.model_dump(mode="json")) if _DOTTED.fullmatch(text)]
    modules = [text.partition(":")[0] if ":" in text else text.rpartition(".")[0] for text in texts]
    return named + [module.partition(".")[0] for module in modules if _is_a_file(module)]


def _is_a_file(module: str) -> bool:
    """Whether there is such a module: `data.en` is a file's name, though a folder `data` could be imported."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, Iterable):
        for entry in value:
            yield from _texts(entry)


def _own_path(name: str, places: list[Path]) -> Path | None:
    """Where a top-level module lies, if that is the user's own and not installed."""
    if name in sys.stdlib_module_names or name in shipped_packages():
        return None
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    origin = spec.origin or next(iter(spec.submodule_search_locations or []), None)
    if origin is None:
        return None
    path = Path(origin).resolve()
    is_installed = {"site-packages", "dist-packages"} & set(path.parts)
    if is_installed or not any(path.is_relative_to(place.resolve()) for place in places):
        return None
    return path.parent if path.name == "__init__.py" else path


def _sources(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _imports(file: Path) -> set[str]:
    """The top-level modules that a file imports anywhere, also inside functions."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # the job was checked with it, or does not use it
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
