"""How much of the difference between trials each setting explains by itself: a one-way decomposition of variance.

A setting's values are groups: those of a list as they are, numbers in thirds from low to high. The share is epsilon
squared of Kruskal and Wallis: the variance of the scores' ranks between groups, over all of it, less what groups of
these sizes explain by chance. Ranks, because one trial that diverged would else be all there is to explain; thirds,
because the best learning rate lies in the middle, where a correlation finds nothing.

It is of one setting at a time: what only two settings together explain belongs to neither. With twenty trials chance
alone reaches far, so each share comes with the one that shuffled scores reach once in twenty times.

Source: Kruskal & Wallis 1952; epsilon squared: Kelley 1935; variance of one factor: Hutter et al. 2014, "An efficient
approach for assessing hyperparameter importance", which goes on to all combinations by a forest.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from footplate.streams import numpy_stream

Numbers = np.ndarray[Any, np.dtype[np.float64]]
GROUPS_OF_NUMBERS = 3
FEWEST_TRIALS = 6
SHUFFLES = 400
CHANCE_QUANTILE = 0.95


@dataclass(frozen=True)
class Importance:
    """What share of the variance a setting explains, 0 to 1, and what shuffled scores reach once in twenty times."""

    share: float
    by_chance: float

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the share is worth a look."""
        return self.share > self.by_chance


def importances(settings: Mapping[str, Sequence[Any]], scores: Sequence[float]) -> dict[str, Importance]:
    """For each setting, given its value in each trial and the trials' scores. Empty with fewer than 6 trials.

    >>> found = importances({"a": [1, 1, 1, 2, 2, 2], "b": [1, 2, 1, 2, 1, 2]}, [1, 2, 3, 7, 8, 9])
    >>> round(found["a"].share, 3), round(found["b"].share, 3)
    (0.714, 0.0)
    """
    if len(scores) < FEWEST_TRIALS:
        return {}
    ranks = _ranks(np.asarray(scores, dtype=np.float64))
    found = {}
    for key, values in settings.items():
        groups = group(values)
        stream = numpy_stream(0, "importance")
        shuffled = [explained(groups, stream.permutation(ranks)) for _ in range(SHUFFLES)]
        found[key] = Importance(explained(groups, ranks), float(np.quantile(shuffled, CHANCE_QUANTILE)))
    return found


def group(values: Sequence[Any]) -> list[int]:
    """The group of each value: distinct values where there are few, else thirds of the numbers."""
    distinct: dict[Hashable, int] = {}
    for value in values:
        distinct.setdefault(_hashable(value), len(distinct))
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not are_numbers or len(distinct) <= GROUPS_OF_NUMBERS:
        return [distinct[_hashable(value)] for value in values]
    bounds = np.quantile(np.asarray(values, dtype=np.float64), np.arange(1, GROUPS_OF_NUMBERS) / GROUPS_OF_NUMBERS)
    return [int(index) for index in np.searchsorted(bounds, np.asarray(values, dtype=np.float64))]


def explained(groups: Sequence[int], ranks: Numbers) -> float:
    """1 - (variance within groups, per degree of freedom) / (variance of all, likewise); at least 0."""
    within, used = 0.0, set(groups)
    total = float(np.sum((ranks - ranks.mean()) ** 2))
    if total == 0 or len(used) < 2 or len(ranks) <= len(used):
        return 0.0
    for number in used:
        these = ranks[np.asarray(groups) == number]
        within += float(np.sum((these - these.mean()) ** 2))
    return max(0.0, 1 - (within / (len(ranks) - len(used))) / (total / (len(ranks) - 1)))


def _ranks(scores: Numbers) -> Numbers:
    """Ranks from 1; equal scores share the mean of theirs."""
    ordered = np.sort(scores)
    first = np.searchsorted(ordered, scores, side="left")
    last = np.searchsorted(ordered, scores, side="right")
    ranks: Numbers = (first + last + 1) / 2
    return ranks


def _hashable(value: Any) -> Hashable:
    return value if isinstance(value, Hashable) and not isinstance(value, float) else repr(value)
