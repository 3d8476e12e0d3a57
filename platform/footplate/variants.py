"""What a type says about the configuration below it: which sections, which variants, which keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from footplate.section import Section

Fields = Mapping[str, FieldInfo]
KeyPath = tuple[str | int, ...]
"""The keys and list positions that lead to a value."""


@dataclass(frozen=True)
class Place:
    """A value inside unvalidated data, with what its type says may stand there."""

    value: Any
    annotation: Any = Any
    fields: Fields = field(default_factory=dict)
    """The keys known here; empty unless the value is a section, of a known kind."""

    def child(self, key: str | int) -> "Place":
        """What stands under a key or at a position; its value is None if there is nothing."""
        if key in self.fields:
            annotation = self.fields[str(key)].annotation
        else:
            annotation = entry_type(self.annotation, key if isinstance(key, int) else 0)
        value: Any = None
        if isinstance(self.value, dict):
            value = self.value.get(key)
        elif isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            value = self.value[key]
        section = section_for(annotation, value) if isinstance(value, dict) else None
        return Place(value, annotation, section.model_fields if section else {})

    def at(self, path: KeyPath) -> "Place":
        """What stands at the end of a path from here."""
        return self.child(path[0]).at(path[1:]) if path else self


def sections(annotation: Any) -> list[type[Section]]:
    """The sections that a value of this type may be: several for a union of variants, none for a plain value.

    >>> from footplate.section import Every
    >>> sections(Every | None)
    [<class 'footplate.section.Every'>]
    """
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for member in _members(annotation) for section in sections(member)]


def kinds(annotation: Any) -> dict[str, type[Section]]:
    """The variants of a union by their `kind`; empty where there is nothing to choose from."""
    found = sections(annotation)
    if len(found) < 2:
        return {}
    return {kind: section for section in found if "kind" in section.model_fields for kind in own_kinds(section)}


def takes_values(annotation: Any) -> bool:
    """Whether a list of plain values may stand where a section may.

    >>> from footplate.section import Every
    >>> takes_values(Every | tuple[int, ...]), takes_values(Every | tuple[Every, ...])
    (True, False)
    """
    is_list = get_origin(annotation) in (tuple, list) and not sections(entry_type(annotation, 0))
    return is_list or any(takes_values(member) for member in _members(annotation))


def own_kinds(section: type[Section]) -> tuple[str, ...]:
    """The values of `kind` that this section goes by."""
    return get_args(section.model_fields["kind"].annotation)


def section_for(annotation: Any, value: Mapping[str, Any]) -> type[Section] | None:
    """The section that this mapping is meant to be; None if it is not one, or its `kind` is unknown."""
    found = sections(annotation)
    if len(found) == 1:
        return found[0]
    kind = value.get("kind")
    return kinds(annotation).get(kind) if isinstance(kind, str) else None


def entry_type(annotation: Any, index: int) -> Any:
    """The type of an entry of a list or tuple, of a value of a dictionary; Any where that isn't known."""
    members = _members(annotation)
    if members:
        types = (entry_type(member, index) for member in members)
        return next((found for found in types if found is not Any), Any)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return arguments[index] if index < len(arguments) else Any
    if not isinstance(origin, type) or not arguments:
        return Any
    if issubclass(origin, Mapping):
        return arguments[1]
    return arguments[0] if issubclass(origin, Sequence) else Any


def _members(annotation: Any) -> list[Any]:
    """What a union, an `Annotated` or a type alias is made of; empty for any other type."""
    if hasattr(annotation, "__value__"):
        return [annotation.__value__]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return [arguments[0]]
    if origin in (Union, UnionType):
        return [member for member in arguments if member is not NoneType]
    return []
