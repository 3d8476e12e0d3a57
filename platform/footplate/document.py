"""YAML as recipes use it: plain data, and for each key the line that it stands on.

The rules are those of YAML 1.2's core schema, not PyYAML's YAML 1.1: `1e-4` is a float, `on` and `no` are strings,
`010` is ten. Whole numbers may be grouped as in Python (`100_000`). Nothing but plain data is read: no tags of
Python objects, no merge keys.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from footplate.errors import ConfigError
from footplate.variants import KeyPath

_MOST_LEVELS = 50
_MOST_VALUES = 100_000  # a few nested aliases can stand for billions of values
_LARGEST_INTEGER = 2**63 - 1
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_SCALARS = {
    "null": (re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    "int": (re.compile(rf"[-+]?{_DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+"), list("-+0123456789")),
    "float": (
        re.compile(
            rf"[-+]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
        list("-+0123456789."),
    ),
}
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Origin:
    """Where a value was written."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """What is wrong with the value at a path, and what to do about it."""

    path: KeyPath
    text: str
    origin: Origin | None = None
    """Where to look; None where the value itself stands."""

    def line(self, origin: Origin) -> str:
        """The problem as the user reads it."""
        return ": ".join([str(origin), *([key_name(self.path)] if self.path else []), self.text])


@dataclass
class Document:
    """A mapping as it was read, with the origin of each key and each entry of a list."""

    source: str
    folder: Path | None = None
    """Where paths that the document names are looked for, besides the working directory."""
    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    """What is wrong with the text, each with its origin; the rest was read all the same."""
    unread: set[KeyPath] = field(default_factory=set)
    """The values that null stands for, as they could not be read; the path () where the whole is not worth judging."""

    def is_unread(self, path: KeyPath) -> bool:
        """Whether the value, or one around it, could not be read."""
        return any(path[:length] in self.unread for length in range(len(path) + 1))

    def where(self, path: KeyPath) -> Origin:
        """The origin of the value, or of the innermost thing around it that was written somewhere."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return Origin(self.source)

    def sources_within(self, path: KeyPath) -> set[str]:
        """The sources of the value and of everything inside it; empty where nobody wrote anything (a default)."""
        return {origin.source for key, origin in self.origins.items() if key[: len(path)] == path}

    def forget(self, path: KeyPath) -> None:
        """Drop the origins of the value and of everything inside it, and what could not be read there."""
        self.origins = {key: origin for key, origin in self.origins.items() if key[: len(path)] != path}
        self.unread = {key for key in self.unread if key[: len(path)] != path}


def key_name(path: KeyPath) -> str:
    """The path as it is written in an override, on one line.

    >>> key_name(("optimizer", "betas", 0))
    'optimizer.betas.0'
    """
    keys = [str(key) if str(key).isprintable() else ascii(key) for key in path]
    return ".".join(key if len(key) <= 60 else key[:57] + "..." for key in keys)


def read_document(path: Path) -> Document:
    """The document in a UTF-8 file. Raises ConfigError as `parse_document` does."""
    source = key_name((str(path),)) if not str(path).isprintable() else str(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            [f"{source}: no such file; `footplate recipes` lists the recipes that can be given by name"]
        ) from None
    except IsADirectoryError:
        raise ConfigError([f"{source}: is a folder; give the path of a YAML file"]) from None
    except (OSError, ValueError) as error:
        raise ConfigError([f"{source}: can't be read ({getattr(error, 'strerror', None) or error})"]) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise ConfigError([f"{source}:{line}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8"]) from None
    return replace(parse_document(text, source), folder=path.parent)


def parse_document(text: str, source: str) -> Document:
    """The document in a text; `source` is what messages call it. Raises ConfigError where the text is no mapping.

    Keys given twice and whatever else is not plain data are left to the document's `problems`.
    """
    node = _compose(text, source)
    if node is None:
        raise ConfigError([f"{source}: is empty; a recipe names at least its task, such as task: translation"])
    reading = _Reading(source)
    data = reading.value(node, ())
    if not isinstance(data, dict):
        if reading.problems:
            raise ConfigError(reading.lines_of_problems())
        kind = "a list" if isinstance(data, list) else "a single value"
        raise ConfigError(
            [f"{source}:{_line(node)}: expected a mapping of keys to values, got {kind}; start with task: NAME"]
        )
    return Document(source, data=data, origins=reading.origins, problems=reading.problems, unread=reading.unread)


def parse_value(text: str, source: str) -> Any:
    """A value as it would be read behind `key:` in a recipe. Raises ConfigError."""
    node = _compose(text, source, lines=False)
    if node is None:
        return None
    reading = _Reading(source, lines=False)
    value = reading.value(node, ())
    if reading.problems:
        raise ConfigError(reading.lines_of_problems())
    return value


def write_yaml(data: dict[str, Any]) -> str:
    """Plain data as block YAML in the order of its keys; reading it gives equal data, also for floats such as 1e-4."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the class attribute is PyYAML's)


class _Dumper(yaml.SafeDumper):
    """Quotes exactly what `_Loader` would take for something else than a string."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # In single quotes PyYAML writes line breaks such as U+0085 that it then reads as something else.
        plain = data.isprintable() and data != "<<"
        return self.represent_scalar(_TAG + "str", data, style=None if plain else '"')


_Dumper.add_representer(str, _Dumper.represent_str)

for _name, (_pattern, _first) in _SCALARS.items():
    _whole = re.compile(rf"(?:{_pattern.pattern})\Z")
    _Loader.add_implicit_resolver(_TAG + _name, _whole, _first)
    _Dumper.add_implicit_resolver(_TAG + _name, _whole, _first)


def _compose(text: str, source: str, lines: bool = True) -> yaml.Node | None:
    line = 1
    try:
        return _Loader(text).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"not valid YAML (the character {chr(error.character)!a}); remove it"
    except yaml.MarkedYAMLError as error:
        if mark := error.problem_mark or error.context_mark:
            line = mark.line + 1
        what = " ".join((error.problem or error.context or "unreadable").split())
        if "another document" in what:
            problem = "a second document starts here; keep one, without ---"
        elif r"'\t'" in what:
            problem = "not valid YAML (a tab); indent with spaces"
        else:
            problem = f"not valid YAML ({what}); check the indentation and the quotes there"
    except RecursionError:
        problem = f"nested more than {_MOST_LEVELS} levels deep; make it flatter"
    raise ConfigError([f"{Origin(source, line if lines else None)}: {problem}"])


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class _Reading:
    """Turns composed nodes into data, collecting origins and problems on the way."""

    def __init__(self, source: str, lines: bool = True) -> None:
        self.source = source
        self.lines = lines
        self.problems: list[Problem] = []
        self.unread: set[KeyPath] = set()
        self.origins: dict[KeyPath, Origin] = {}
        self._values = 0

    def lines_of_problems(self) -> list[str]:
        """The problems as the user reads them."""
        return [problem.line(problem.origin or Origin(self.source)) for problem in self.problems]

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._values += 1
        if self._values > _MOST_VALUES:
            if self._values == _MOST_VALUES + 1:
                self.unread.add(())
                self._complain(node, (), f"more than {_MOST_VALUES:,} values; write fewer, or use fewer aliases")
            return None
        if len(path) > _MOST_LEVELS:
            self.unread.add(())
            self._complain(node, (), f"nested more than {_MOST_LEVELS} levels deep; make it flatter")
            return None
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self._entry(entry, (*path, index)) for index, entry in enumerate(node.value)]
        return self._scalar(node, path)

    def _entry(self, node: yaml.Node, path: KeyPath) -> Any:
        self.origins[path] = Origin(self.source, _line(node))
        return self.value(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._complain(key_node, path, "a list or a mapping can't be a key; write a plain word")
                continue
            key = key_node.value
            here = (*path, key)
            if key_node.tag != _TAG + "str":
                self._complain(key_node, here, "this key is not a string; put it in quotes")
            elif key == "<<" and key_node.style is None:
                self._complain(key_node, here, "merge keys are not read; write the keys out")
            elif key in data:
                self._complain(key_node, here, f"given twice (first in line {self.origins[here].line}); remove one")
            elif not _is_unicode(key):
                self._complain(key_node, here, "this key holds half a surrogate pair; write the character itself")
            else:
                self.origins[here] = Origin(self.source, _line(key_node))
                data[key] = self.value(value_node, here)
        return data

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        name = node.tag.removeprefix(_TAG)
        if not isinstance(node, yaml.ScalarNode) or name not in (*_SCALARS, "str"):
            shown = ascii(node.tag.replace(_TAG, "!!"))[1:-1]
            return self._refuse(node, path, f"the tag {shown} is not allowed; write a plain value")
        text = node.value
        if name == "str":
            if _is_unicode(text):
                return text
            return self._refuse(node, path, "holds half a surrogate pair; write the character itself")
        if not _SCALARS[name][0].fullmatch(text):
            return self._refuse(node, path, f"{text!a} does not fit the tag !!{name}; remove the tag")
        if name == "null":
            return None
        if name == "bool":
            return text.lower() == "true"
        text = text.replace("_", "")
        if name == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if len(text) > 40 or abs(number := int(text, _base(text))) > _LARGEST_INTEGER:
            return self._refuse(node, path, f"too large; whole numbers end at {_LARGEST_INTEGER}")
        return number

    def _refuse(self, node: yaml.Node, path: KeyPath, text: str) -> None:
        self.unread.add(path)
        self._complain(node, path, text)

    def _complain(self, node: yaml.Node, path: KeyPath, text: str) -> None:
        problem = Problem(path, text, Origin(self.source, _line(node) if self.lines else None))
        if problem not in self.problems:
            self.problems.append(problem)


def _base(text: str) -> int:
    return {"0o": 8, "0x": 16}.get(text[:2], 10)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
