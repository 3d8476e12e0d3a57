"""pydantic's complaints in plain English, at the key that the user wrote."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from footplate.document import Problem, key_name
from footplate.variants import KeyPath, Place, kinds, takes_values

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "none_required": "null",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "a path",
}
_LIMITS = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "finite_number": "must be a finite number",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "too_short": "needs at least {min_length} entries",
    "too_long": "takes at most {max_length} entries",
}


def explain(error: ValidationError, root: Place) -> list[Problem]:
    """Every problem of the data at `root`: one for each path, in the order of pydantic's complaints."""
    branches: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        path = _path(details["loc"], root)
        if details["type"].startswith("union_tag"):
            path = (*path, "kind")
        branches.setdefault(path, []).append(details)
    problems = []
    for path, here in branches.items():
        if any(other[: len(path)] == path != other for other in branches):
            continue  # a member of the union that fits better says what is wrong inside of the value
        problems.append(Problem(path, _either([_text(details, path, root) for details in here])))
    return problems


def unknown_key(key: str, around: Place, root: Place) -> str:
    """What to say of a key that is not known where it stands."""
    others = [kind for kind, section in kinds(around.annotation).items() if key in section.model_fields]
    if others and isinstance(around.value, dict):
        return f"kind {around.value.get('kind')} has no such key ({', '.join(others)} would); remove it"
    if close := did_you_mean(key, around.fields):
        return f"unknown key{close}"
    if elsewhere := [key_name(path) for path in _paths_to(key, root)]:
        return f"unknown key; did you mean {' or '.join(elsewhere[:3])}?"
    names = list(around.fields)
    return f"unknown key; known here: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message that proposes the nearest of the known words, or nothing.

    >>> did_you_mean("adm", ["sgd", "adam"])
    '; did you mean adam?'
    >>> did_you_mean("transformer", ["sgd", "adam"])
    ''
    """
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def shown(value: Any) -> str:
    """A value in the user's terms, on one line.

    >>> shown("abc"), shown(None), shown(True), shown([1])
    ("the string 'abc'", 'null', 'true', 'a list')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the string {_quoted(value)}"
    if isinstance(value, list):
        return "a list"
    return "a mapping" if isinstance(value, dict) else str(value)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _path(location: tuple[str | int, ...], root: Place) -> KeyPath:
    """pydantic's location without the names of variants and of union members, which no user wrote."""
    path: list[str | int] = []
    place, variant_named = root, False
    for part in location:
        if not variant_named and part in kinds(place.annotation):
            variant_named = True
        elif (
            part in place.fields
            or (isinstance(place.value, dict) and part in place.value)
            or (isinstance(place.value, list) and isinstance(part, int))
        ):
            path.append(part)
            place, variant_named = place.child(part), False
    return tuple(path)


def _text(details: ErrorDetails, path: KeyPath, root: Place) -> str:
    problem, value, context = details["type"], details["input"], details.get("ctx", {})
    if problem == "missing":
        return "missing; add it"
    if problem == "extra_forbidden":
        return unknown_key(str(path[-1]), root.at(path[:-1]), root)
    if problem.startswith("union_tag"):
        return _unknown_kind(problem, root.at(path[:-1]))
    if problem in ("value_error", "assertion_error"):
        return _one_line(context["error"])
    if problem in ("literal_error", "enum"):
        choices = re.findall(r"'([^']*)'", context["expected"])
        return f"expected {context['expected']}, got {shown(value)}" + (
            did_you_mean(value, choices) if isinstance(value, str) else ""
        )
    if problem in _LIMITS:
        got = f"{len(value)}" if problem in ("too_short", "too_long") else shown(value)
        limits = {name: _number(limit) for name, limit in context.items()}
        return f"{_LIMITS[problem].format(**limits)}, got {got}"
    expected = _EXPECTED.get(problem)
    if expected is None:
        return f"{details['msg'][:1].lower()}{_one_line(details['msg'][1:])}, got {shown(value)}"
    return f"expected {expected}, got {shown(value)}{_hint(expected, value, root.at(path))}"


def _hint(expected: str, value: Any, place: Place) -> str:
    if expected == "a whole number" and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if expected == "a mapping" and isinstance(value, str) and value in kinds(place.annotation):
        return f"; write {{kind: {value}}}"
    return ""


def _unknown_kind(problem: str, place: Place) -> str:
    names = list(kinds(place.annotation))
    choose = f"choose one of {', '.join(names)}{', or write a list of values' * takes_values(place.annotation)}"
    kind = place.value.get("kind") if isinstance(place.value, dict) else None
    if problem == "union_tag_not_found" and kind is None:
        return f"missing; {choose}"
    if not isinstance(kind, str):
        return f"unknown kind, got {shown(kind)}; {choose}"
    return f"unknown kind {_quoted(kind)}; {choose}{did_you_mean(kind, names)}"


def _either(texts: list[str]) -> str:
    """One text for a value that no member of a union would take."""
    distinct = list(dict.fromkeys(texts))
    parts = [re.fullmatch(r"expected (.*), got (.*)", text) for text in distinct]
    if len(distinct) == 1 or not all(parts):
        return "; or ".join(distinct)
    wanted = " or ".join(part[1] for part in parts if part)
    return f"expected {wanted}, got {parts[0][2] if parts[0] else ''}"


def _paths_to(key: str, place: Place) -> list[KeyPath]:
    """Where a key of this name is known, in the sections that the configuration has."""
    here: list[KeyPath] = [(key,)] if key in place.fields else []
    return here + [(name, *path) for name in place.fields for path in _paths_to(key, place.child(name))]


def _number(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() and abs(limit) < 1e15 else limit


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
