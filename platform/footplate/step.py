"""`Step`: what a task yields, once for each optimizer update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from footplate.segments import Segmented


class Stateful(Protocol):
    """A part that can be saved and restored: an `nn.Module`, an `Update`, a position in the data."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...


Part = Stateful | Segmented
"""What a checkpoint holds under a name."""


class Mean(NamedTuple):
    """A metric that is averaged over what it counts: a loss over tokens, a return over episodes.

    A row over several updates reports the sum of the totals over the sum of the counts; a count of 0 says nothing.
    """

    total: float | Tensor
    count: float | Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs here


class Latest(NamedTuple):
    """A metric of which a row shows the last value and no mean: a running count."""

    value: float


Metric = float | Tensor | Mean | Latest
"""A number, a 0-d tensor (read only when a row is written, so that logging never stalls a GPU), `Mean` or `Latest`."""


def metric_value(metric: Metric) -> float | None:
    """A metric as a number, read from its device; None for the mean over nothing."""
    if isinstance(metric, Mean):
        return float(metric.total) / float(metric.count) if float(metric.count) else None
    return float(metric.value if isinstance(metric, Latest) else metric)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text to look at, such as sample translations."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    aligned: bool = False
    """Short cells, to be compared down the columns: shown as a line a row. Otherwise a row is read as a text."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An RGB image, uint8 of shape (height, width, 3)."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class Video:
    """A finished video file."""

    path: Path
    caption: str = ""
    beside: Path | None = None
    """A file that belongs to it and goes where it goes."""


Medium = Table | Picture | Video


@dataclass(frozen=True, slots=True)
class Activity:
    """What a long pause between updates is spent on: `done` of `total`."""

    name: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Step:
    """The state of a run after an optimizer update, or news of progress between two.

    While the generator that yielded a step is suspended, its state is consistent: whoever consumes it may save.
    """

    update: int
    """How many updates have been made; the first is 1."""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """Names such as `train/loss`, `eval/bleu`, `rollout/return`; averaged over the updates of a row."""
    work: Mapping[str, int] = field(default_factory=dict)
    """What this update consumed over all ranks, such as `target_tokens` or `frames`: drives axes and rates."""
    state: Mapping[str, Part] | None = None
    """The parts to save, by name; None where an exact checkpoint is impossible."""
    media: Mapping[str, Medium] = field(default_factory=dict)
    """Tables, pictures and videos, by name."""
    activity: Activity | None = None
    """Set on a step between updates: no update was made, nothing is counted or saved."""
