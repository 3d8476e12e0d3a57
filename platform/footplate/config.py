"""From a document and overrides to a job: every default in its place, and everything that is wrong said at once.

    document + defaults -> DEBUG_OVERRIDES -> overrides -> defaults of changed variants -> Job and Config

A section that a recipe writes in part takes the rest from the field's default, also where that default is not the
section's own: with `optimizer: Optimizer = Adam(beta2=0.98)`, a recipe that sets only the learning
rate keeps 0.98.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from footplate.document import Document, Origin, Problem, key_name, parse_value
from footplate.errors import ConfigError
from footplate.job import Job
from footplate.problems import explain, shown, unknown_key
from footplate.section import Section
from footplate.tasks import Task, TaskError, check_job, debug_overrides, load_task, task_name, task_names
from footplate.variants import Fields, KeyPath, Place, entry_type, kinds, section_for

COMMAND_LINE = "command line"
DEBUG = "DEBUG_OVERRIDES of the task"
_KEYS_IN_A_TEXT = re.compile(r"\b\w+(?:\.\w+)+|\b\w+(?=: )")
SectionType = TypeVar("SectionType", bound=Section)
JOB_FIELDS: Fields = {name: field for name, field in Job.model_fields.items() if name != "config"}


def resolve(document: Document, overrides: Sequence[str], *, debug: bool = False) -> Job:
    """The job that a document describes once the overrides are applied. Raises ConfigError with all problems."""
    wanted, unreadable = _parse_overrides(overrides)
    if ("task",) in wanted:
        document.data["task"], document.origins[("task",)] = wanted.pop(("task",)), Origin(COMMAND_LINE)
    try:
        task = _load_task(document)
    except TaskError as error:
        problems = [Problem(("task",), str(error)), *(p for p in _validate_job(document)[1] if p.path != ("task",))]
        raise ConfigError(_lines(document, problems) + unreadable) from error
    fields = {**task.Config.model_fields, **JOB_FIELDS}
    document.data = _filled(fields, document.data)
    if debug:
        shrinking = {"debug": True, "deterministic": True, **debug_overrides(task)}
        values: dict[KeyPath, Any] = {
            tuple(key.split(".")): to_jsonable_python(value) for key, value in shrinking.items()
        }
        _override(document, fields, values, DEBUG)
    unreadable = _override(document, fields, wanted, COMMAND_LINE) + unreadable
    root = Place(document.data, fields=fields)
    unknown = [Problem((key,), unknown_key(key, root, root)) for key in document.data if key not in fields]
    job, job_problems = _validate_job(document)
    config, config_problems = _validate(task.Config, document.data, task.Config.model_fields)
    if job is not None and config is not None:
        job = job.model_copy(update={"config": config})
        job_problems = _objections(task, job)
    found = _lines(document, [*unknown, *job_problems, *config_problems]) + unreadable
    if job is None or found:
        raise ConfigError(found)
    return job


def resolve_section(section: type[SectionType], document: Document, overrides: Sequence[str]) -> SectionType:
    """What a file that is one section describes, with the overrides. Raises ConfigError with all problems."""
    wanted, unreadable = _parse_overrides(overrides)
    fields = section.model_fields
    document.data = _filled(fields, document.data)
    unreadable = _override(document, fields, wanted, COMMAND_LINE) + unreadable
    root = Place(document.data, fields=fields)
    unknown = [Problem((key,), unknown_key(key, root, root)) for key in document.data if key not in fields]
    found, problems = _validate(section, document.data, fields)
    lines = _lines(document, [*unknown, *problems]) + unreadable
    if found is None or lines:
        raise ConfigError(lines)
    return found


def _load_task(document: Document) -> Task:
    name = document.data.get("task")
    if name is None:
        raise TaskError(
            f"missing; choose one of {', '.join(task_names())}, or give a dotted module or a path to a .py file"
        )
    if not isinstance(name, str):
        raise TaskError(f"expected the name of a task, got {shown(name)}")
    document.data["task"] = task_name(name, document.folder)
    return load_task(document.data["task"])


def _validate_job(document: Document) -> tuple[Job | None, list[Problem]]:
    """The job without its config, which is an empty section."""
    return _validate(Job, {**document.data, "config": {}}, JOB_FIELDS)


def _validate(
    section: type[SectionType], data: Mapping[str, Any], fields: Fields
) -> tuple[SectionType | None, list[Problem]]:
    """The section made of those keys of `data` that are its own, or what is wrong with them."""
    own = {key: value for key, value in data.items() if key in section.model_fields}
    try:
        return section.model_validate_json(json.dumps(own)), []
    except ValidationError as error:
        return None, explain(error, Place(dict(data), fields=fields))


def _objections(task: Task, job: Job) -> list[Problem]:
    """What the task itself has against the job."""
    try:
        check_job(task, job)
    except ValueError as error:
        return [Problem((), str(error))]
    return []


def _lines(document: Document, problems: list[Problem]) -> list[str]:
    """The document's own problems and these as lines, in the order of the file, then those of the command line.

    Nothing is said about values that could not be read but that.
    """
    placed = []
    for problem in [*document.problems, *(each for each in problems if not document.is_unread(each.path))]:
        origin = problem.origin or _blamed(document, problem)
        order = (origin.source != document.source, origin.line or 0)
        placed.append((order, problem.line(origin)))
    return [line for _, line in sorted(placed, key=lambda entry: entry[0])]


def _blamed(document: Document, problem: Problem) -> Origin:
    """Where the value was written; what doesn't fit together as a whole, where the first key that the text names was.

    Of the keys that it names, one that was given on the command line is the likelier mistake.
    """
    path = problem.path or tuple(problem.text.partition(":")[0].split("."))
    overridden = Origin(COMMAND_LINE)
    named = [] if problem.path else _KEYS_IN_A_TEXT.findall(problem.text)
    if any(document.where(tuple(name.split("."))) == overridden for name in named):
        return overridden
    return overridden if _is_due_to_an_override(document, path) else document.where(path)


def _is_due_to_an_override(document: Document, path: KeyPath) -> bool:
    """Whether a section that doesn't fit together, or lacks a key, is not as the file has it."""
    value = Place(document.data).at(path).value
    if path and isinstance(value, dict):
        return COMMAND_LINE in document.sources_within(path)
    chosen = document.origins.get((*path[:-1], "kind"))
    return path not in document.origins and chosen == Origin(COMMAND_LINE)


def _parse_overrides(overrides: Sequence[str]) -> tuple[dict[KeyPath, Any], list[str]]:
    """The values by path, the last of one path winning, and what could not be read."""
    values: dict[KeyPath, Any] = {}
    problems = []
    for override in overrides:
        name, equals, text = override.partition("=")
        path = tuple(name.strip().split("."))
        if not equals or not all(path):
            problems.append(f"{COMMAND_LINE}: {override[:80]!r}: expected key=value, such as seed=2")
            continue
        try:
            value = parse_value(text, f"{COMMAND_LINE}: {key_name(path)}")
        except ConfigError as error:
            problems += error.problems
            continue
        values.pop(path, None)  # the last one also takes the last place in the order
        values[path] = value
    return values, problems


def _override(document: Document, fields: Fields, values: Mapping[KeyPath, Any], source: str) -> list[str]:
    """Set the values, a whole before its parts and a `kind` before its keys; returns what could not be set.

    What shrinks a debugged job leaves alone sections that are off and keys of a kind that isn't chosen.
    """
    problems = []
    for path in sorted(values, key=lambda path: (len(path), path[-1] != "kind")):
        if source == DEBUG and not _is_in_use(Place(document.data, fields=fields), path):
            continue
        try:
            reached = _set(document, path, values[path], source)
        except ConfigError as error:
            problems += error.problems
            continue
        if path[-1] == "kind":
            _drop_former_kind(document, fields, reached[:-1])
        document.data = _filled(fields, document.data)
    return problems


def _set(document: Document, path: KeyPath, value: Any, source: str) -> KeyPath:
    """Set a value; returns its path with positions as numbers. Raises ConfigError if there is no such position."""
    container: Any = document.data
    reached: KeyPath = ()
    for key in path:
        where = f"{source}: {key_name(path)}: {key_name(reached)}"
        if isinstance(container, list):
            if not re.fullmatch("[0-9]{1,9}", str(key)) or int(key) >= len(container):
                raise ConfigError([f"{where} is a list of {len(container)}; its entries are numbered from 0"])
            key = int(key)
        elif not isinstance(container, dict):
            raise ConfigError([f"{where} is {shown(container)}, which has no keys; set {key_name(reached)} itself"])
        reached = (*reached, key)
        if len(reached) == len(path):
            document.forget(reached)
            container[key] = value
        elif isinstance(container, list) or container.get(key) is not None:
            container = container[key]
            continue
        else:
            container[key] = container = {}
        document.origins[reached] = Origin(source)
    return reached


def _is_in_use(place: Place, path: KeyPath) -> bool:
    for key in path:
        if place.value is None:
            return False
        if key not in place.fields:  # unless another kind has it, a mistake of the task's, which validation reports
            return not any(key in section.model_fields for section in kinds(place.annotation).values())
        place = place.child(key)
    return True


def _drop_former_kind(document: Document, fields: Fields, path: KeyPath) -> None:
    """Once `kind` is overridden, drop what was said about another kind, unless on the command line too."""
    place = Place(document.data, fields=fields).at(path)
    section = section_for(place.annotation, place.value)
    if section is None:
        return
    known = {key for variant in kinds(place.annotation).values() for key in variant.model_fields}
    for key in list(place.value):
        sources = document.sources_within((*path, key))
        is_default = not sources
        is_former = key in known and key not in section.model_fields
        if COMMAND_LINE not in sources and (is_default or is_former):
            del place.value[key]
            document.forget((*path, key))


def _filled(fields: Fields, data: Mapping[str, Any], default: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`data` with the defaults of sections, lists and mappings; `default` is an instance whose values come first."""
    filled = dict(data)
    for name, field in fields.items():
        here = default[name] if default and name in default else _default(field)
        if name in data:
            filled[name] = _filled_value(field.annotation, data[name], here)
        elif here is not None or (default and name in default):
            filled[name] = here
    return filled


def _filled_value(annotation: Any, value: Any, default: Any = None) -> Any:
    if isinstance(value, list):
        return [_filled_value(entry_type(annotation, index), entry) for index, entry in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if isinstance(default, dict) and value.get("kind", default.get("kind")) == default.get("kind"):
        section = section_for(annotation, {**default, **value})
    else:
        section, default = section_for(annotation, value), None
    if section is None:
        return {key: _filled_value(entry_type(annotation, 0), entry) for key, entry in value.items()}
    return _filled(section.model_fields, value, default)


def _default(field: FieldInfo) -> Any:
    """The default of a field as JSON data, where it has keys or positions that an override could address."""
    if field.is_required() or field.default_factory_takes_validated_data:
        return None
    default = field.get_default(call_default_factory=True)
    return to_jsonable_python(default) if isinstance(default, Section | list | tuple | dict) else None
