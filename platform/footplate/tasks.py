"""Finding a task: the name of an installed one, a dotted module, or a path to a `.py` file."""

import hashlib
import sys
import traceback
from collections.abc import Callable, Generator, Mapping
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from footplate.errors import FootplateError
from footplate.problems import did_you_mean
from footplate.section import Section

if TYPE_CHECKING:
    from footplate.context import Context
    from footplate.job import Job
    from footplate.step import Step

GROUP = "footplate.tasks"


class Task(Protocol):
    """What a task's module holds; all but `Config` and `train` is optional, so ask with `hasattr`.

    Optional are `evaluate`, `check`, `check_evaluation`, `evaluated_metrics`, `actors` and `DEBUG_OVERRIDES`.
    """

    Config: type[Section]
    train: Callable[[Any, "Context"], "Generator[Step, None, None]"]
    evaluate: Callable[[Any, "Context"], "Generator[Step, None, None]"]


class TaskError(FootplateError):
    """A task that can't be found or imported; the message names neither the recipe nor the line."""


def task_names() -> list[str]:
    """The names of the installed tasks, in alphabetical order."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def task_name(name: str, folder: Path | None = None) -> str:
    """The name by which the task is found from anywhere: absolute for a path, looked for in `folder` and here."""
    if not name.endswith(".py"):
        return name
    for candidate in [(folder or Path()) / name, Path(name)]:
        if _is_file(candidate):
            return str(candidate.resolve())
    raise TaskError(f"no such file {name!r}; paths are relative to the recipe or to the working directory")


def load_task(name: str, folder: Path | None = None) -> Task:
    """The module of a task. A `.py` file is imported once in a process; its folder joins the end of `sys.path`.

    Raises TaskError; where the task's own code failed, the original exception is its cause.
    """
    name = task_name(name, folder)
    try:
        module = _load_file(Path(name)) if name.endswith(".py") else _load_module(name)
    except FootplateError:
        raise
    except ModuleNotFoundError as error:
        raise TaskError(f"{name} needs the module {error.name!r}, which is not installed; install it") from error
    except Exception as error:
        raise TaskError(f"importing {name} failed: {_described(error)}") from error
    _check(module, name)
    return cast(Task, module)


def check_job(task: Task, job: "Job") -> None:
    """What the task itself has against a job, where it has a `check(job)`, and a best metric that it never evaluates.

    Raises ValueError, as a validator does.
    """
    if hasattr(task, "check"):
        task.check(job)
    if job.best is not None and hasattr(task, "evaluated_metrics"):
        known = sorted(task.evaluated_metrics(job.config))
        if job.best.metric not in known:
            close = did_you_mean(job.best.metric, known).removeprefix("; ") or f"there are {', '.join(known)}"
            raise ValueError(f"best.metric: {job.best.metric} is never evaluated by {job.task}; {close}")


def actors_of(task: Task, job: "Job") -> int:
    """How many workers the pools of the task have, where they are not in its own thread: what a cluster reserves."""
    return int(task.actors(job.config)) if hasattr(task, "actors") else 0


def debug_overrides(task: Task) -> Mapping[str, object]:
    """What `--debug` shrinks: dotted keys and their values."""
    return cast(Mapping[str, object], getattr(task, "DEBUG_OVERRIDES", {}))


def look_here() -> None:
    """Let a dotted module be found below the working directory too, after all that is installed."""
    here = str(Path.cwd())
    if "" not in sys.path and here not in sys.path:
        sys.path.append(here)


def _load_module(name: str) -> ModuleType:
    module_name = next((entry.value for entry in entry_points(group=GROUP) if entry.name == name), name)
    if all(part.isidentifier() for part in module_name.split(".")):
        if module_name == name:
            look_here()
        try:
            return import_module(module_name)
        except ModuleNotFoundError as error:
            if not f"{module_name}.".startswith(f"{error.name}."):
                raise
            if module_name != name:
                raise TaskError(f"the installed task {name} is the module {module_name}, which is missing") from error
    known = task_names()
    raise TaskError(
        f"unknown task {name[:80]!r}; choose one of {', '.join(known)}, "
        f"or give a dotted module or a path to a .py file{did_you_mean(name, known)}"
    )


def _load_file(path: Path) -> ModuleType:
    # The module's own name would clash with another task.py; a private name can't be imported by another
    # process, which is why jobs pickle as YAML.
    name = f"footplate_task_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path, loader=SourceFileLoader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # at the end, so that nothing there shadows an installed module
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _check(module: ModuleType, name: str) -> None:
    from footplate.job import Job

    config = getattr(module, "Config", None)
    if not (isinstance(config, type) and issubclass(config, Section)):
        raise TaskError(f"{name} has no class Config; a task defines `class Config(Section)`")
    if not callable(getattr(module, "train", None)):
        raise TaskError(f"{name} has no function train; a task defines `train(config, context)`, which yields steps")
    if "updates" not in config.model_fields and not hasattr(config, "updates"):
        raise TaskError(f"Config of {name} has no `updates`; add the number of updates that a run makes")
    if clash := sorted(set(config.model_fields) & set(Job.model_fields)):
        raise TaskError(f"Config of {name} defines {', '.join(clash)}, which each job has already; choose another name")


def _described(error: Exception) -> str:
    """The exception and the line that raised it, on one line."""
    if isinstance(error, SyntaxError):
        message, place = error.msg, f"{error.filename}:{error.lineno}"
    else:
        raised = traceback.extract_tb(error.__traceback__)[-1]
        message, place = " ".join(str(error).split()), f"{raised.filename}:{raised.lineno}"
    return f"{type(error).__name__}: {message} ({place})"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
