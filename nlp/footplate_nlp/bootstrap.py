"""Paired bootstrap: whether one system is better than another, or only luckier in its test sentences.

Axes: N sentences, R resamples.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from footplate_nlp.metrics import Counts, Score


@dataclass(frozen=True)
class Difference:
    """By how much one system scores higher than the other on the same sentences, and how sure that is."""

    this: float
    other: float
    low: float
    """The lower end of the 95 % interval: 2.5 % of the resamples differ by less."""
    high: float
    """The upper end."""
    p: float
    """Twice the share of resamples in which the other system is at least as good; at most 1. See `paired_bootstrap`."""

    @property
    def value(self) -> float:
        """This score minus the other."""
        return self.this - self.other


def paired_bootstrap(
    these: Mapping[str, Score], others: Mapping[str, Score], resamples: int, stream: np.random.Generator
) -> dict[str, Difference]:
    """For each score that both systems have, but the loss, the difference; all scores see the same draws.

    A resample draws N of the N sentences with replacement and scores both systems on them. With d the R differences,
    p = min(1, 2 (1 + min(#(d <= 0), #(d >= 0))) / (R + 1)): two-sided, as nobody knew before which one is better
    (the paper counts one side), and never 0. So p is below 0.05 just where the interval leaves out 0, up to 1 / R.
    Source: Koehn 2004, "Statistical significance tests for machine translation evaluation", section 4.
    """
    names = [name for name in these if name in others and name != "loss"]  # another vocabulary has other tokens
    size = len(these[names[0]].counts_NC)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(resamples):
        rows_N = stream.integers(size, size=size)
        for name in names:
            found[name].append(these[name].over(rows_N) - others[name].over(rows_N))
    return {name: _difference(these[name].value, others[name].value, np.sort(found[name])) for name in names}


def _difference(this: float, other: float, sorted_R: Counts) -> Difference:
    count = len(sorted_R)
    tail = count // 40  # an end of the interval is a resample, so that swapping the systems changes the signs alone
    fewer = min(int((sorted_R <= 0).sum()), int((sorted_R >= 0).sum()))
    p = min(1.0, 2 * (1 + fewer) / (count + 1))
    return Difference(this, other, float(sorted_R[tail]), float(sorted_R[count - 1 - tail]), p)
