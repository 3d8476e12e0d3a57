"""What a key of the recipe may become in a trial: a distribution, or a list of values.

Each draw is a pure function of (seed, key, number of the trial), so that a sweep gives the same trials wherever it
resumes, and another key in the space changes no other key's values.
"""

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Discriminator, Field, JsonValue, Tag, model_validator

from footplate.section import Count, Positive, Section
from footplate.streams import numpy_stream

DIGITS = 4
"""Drawn numbers have so many significant digits: what a table shows is what was run."""


class _Range(Section):
    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        low, high = self.low, self.high  # type: ignore[attr-defined]  # each kind has bounds of its own type
        if low >= high:
            raise ValueError(f"low: {low:g} is not below high: {high:g}; swap them, or set the key in overrides")
        return self


class Uniform(_Range):
    """Any number between two, each as likely."""

    kind: Literal["uniform"]
    low: float
    """The smallest value."""
    high: float
    """The largest value."""

    def draw(self, generator: np.random.Generator) -> float:
        """A number in [low, high]."""
        return _rounded(self.low + (self.high - self.low) * generator.random(), self.low, self.high)


class LogUniform(_Range):
    """Any number between two, each order of magnitude as likely: for learning rates and their like."""

    kind: Literal["log_uniform"]
    low: Positive
    """The smallest value."""
    high: Positive
    """The largest value."""

    def draw(self, generator: np.random.Generator) -> float:
        """A number in [low, high]."""
        return _rounded(self.low * (self.high / self.low) ** generator.random(), self.low, self.high)


class IntegerUniform(_Range):
    """Any whole number between two, both included, each as likely."""

    kind: Literal["integer_uniform"]
    low: int
    """The smallest value."""
    high: int
    """The largest value."""

    def draw(self, generator: np.random.Generator) -> int:
        """A whole number in [low, high]."""
        return int(generator.integers(self.low, self.high, endpoint=True))


class IntegerLogUniform(_Range):
    """Any whole number between two, both included; n is as likely as a log-uniform number in [n, n + 1)."""

    kind: Literal["integer_log_uniform"]
    low: Count
    """The smallest value."""
    high: Count
    """The largest value."""

    def draw(self, generator: np.random.Generator) -> int:
        """A whole number in [low, high]."""
        return min(self.high, int(self.low * ((self.high + 1) / self.low) ** generator.random()))


Distribution = Annotated[Uniform | LogUniform | IntegerUniform | IntegerLogUniform, Field(discriminator="kind")]


def _what_it_is(value: object) -> str:
    return "values" if isinstance(value, list | tuple) else "distribution"


# Told apart beforehand, so that whoever writes a distribution wrong does not hear that it is no list either.
Choice = Annotated[
    Annotated[Distribution, Tag("distribution")] | Annotated[tuple[JsonValue, ...], Tag("values")],
    Discriminator(_what_it_is),
]
"""A distribution, or the values to choose from, each as likely."""


def draw(choice: Choice, seed: int, key: str, number: int) -> JsonValue:
    """The value of `key` in trial `number`.

    >>> draw((1, 2, 3), 1, "width", 5) == draw((1, 2, 3), 1, "width", 5)
    True
    """
    generator = numpy_stream(seed, f"sweep/{key}", number)
    if isinstance(choice, tuple):
        return choice[int(generator.integers(len(choice)))]
    return choice.draw(generator)


def _rounded(value: float, low: float, high: float) -> float:
    return min(high, max(low, float(f"{value:.{DIGITS}g}")))
