"""`Section`: the base of every piece of configuration."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """One mapping of a recipe: immutable, strictly typed, unknown keys refused.

    A string written under a field is its documentation: it appears in the JSON schema and in `footplate show`.
    Fields are validated in JSON mode, where a list serves a tuple and a string a path. Variants are models of their
    own with a field `kind: Literal[...]`, joined in a union discriminated by `kind`.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_default=True,
    )


class Every(Section):
    """Something that recurs each so many updates."""

    every_updates: Annotated[int, Field(ge=1)]
    """How many updates lie between two occurrences."""

    def due(self, update: int) -> bool:
        """Whether it is time after this update (the first update is number 1)."""
        return update % self.every_updates == 0


LARGEST = 3.4e38
"""What torch can still take where it computes in 32 bits."""
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
WholeNumber = Annotated[int, Field(ge=0)]
Threads = Annotated[int, Field(ge=1, le=1024)]
"""Threads of a process: where there are to be too many, OpenMP ends it instead of raising."""
Seconds = Annotated[float, Field(gt=0, le=1_000_000)]
"""A time to wait, which systems take as milliseconds in 31 bits."""
