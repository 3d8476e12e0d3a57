"""Rank-based priorities: how probable a row is depends on its place among the others, not on its error itself.

Axes: B rows of a batch, R all rows.
"""

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from footplate_rl.replay.selection import Drawn, Numbers, Rows, Uniform


class Ranked:
    """P(i) proportional to (1 / rank(i))^alpha, where the row of the largest |delta| has rank 1.

    As in the paper, a binary heap stands for the sorted order: the place of a row in the heap is its rank. It is the
    exact rank right after the heap was sorted, which it is after as many changes as there are rows; in between, a row
    is only sure to stand before the two below it. And as in the paper a batch of B takes one row from each of B
    segments of equal probability, whose borders follow from N and alpha alone: the sum of 1 / i^alpha is taken as an
    integral, from i - 1/2 to i + 1/2 for rank i. So a rank's probability is up to 6 % off for rank 1 (alpha 0.7), and
    within 1.3 % from rank 2 on. `Drawn` has the probabilities with which ranks are really drawn, uniform mix included.

    Source: Schaul et al. 2016, "Prioritized experience replay" (arXiv 1511.05952), section 3.3 and appendix B.2.1.
    """

    def __init__(self, rows: int, alpha: float, mix: float) -> None:
        self._power, self._mix = 1 - alpha, mix
        self._uniform = Uniform(rows)
        # Python reads single numbers of an `array` four times as fast as NumPy's, and NumPy sees the same memory.
        self._priorities = array("d", bytes(8 * rows))
        self._heap = array("i", bytes(4 * rows))
        self._places = array("i", bytes(4 * rows))
        self._heap_R = np.frombuffer(self._heap, np.int32)
        self._changes, self._highest = 0, 1.0

    @property
    def count(self) -> int:
        return self._uniform.count

    def enter(self, rows: Rows) -> None:
        for row in rows.tolist():
            place = self._uniform.count
            self._uniform.enter(np.array([row]))
            self._priorities[row] = self._highest
            self._put(row, place)
            self._raise(place)
        self._count_changes(len(rows))

    def leave(self, rows: Rows) -> None:
        for row in rows.tolist():
            self._uniform.leave(np.array([row]))
            hole, last = self._places[row], self._heap[self._uniform.count]
            if last != row:
                self._put(last, hole)
                self._settle(hole)
        self._count_changes(len(rows))

    def draw(self, size: int, generator: np.random.Generator) -> Drawn:
        shares_B = (np.arange(size) + generator.random(size)) / size
        low, high = self._integral(np.array([0.5, self.count + 0.5]))
        places_B = self._inverse(low + shares_B * (high - low))
        ranks_B = np.rint(places_B).astype(np.intp).clip(1, self.count)
        rows_B = self._heap_R[ranks_B - 1].astype(np.intp)
        if number := generator.binomial(size, self._mix):
            mixed = generator.choice(size, number, replace=False)
            rows_B[mixed] = self._uniform.draw(number, generator).rows_B
            ranks_B[mixed] = np.frombuffer(self._places, np.int32)[rows_B[mixed]] + 1
        masses_B = self._integral(ranks_B + 0.5) - self._integral(ranks_B - 0.5)
        return Drawn(rows_B, (1 - self._mix) * masses_B / (high - low) + self._mix / self.count)

    def update(self, rows_B: Rows, errors_B: Numbers) -> None:
        known_B = self._uniform.may_be_drawn_R[rows_B] & np.isfinite(errors_B)
        for row, error in zip(rows_B[known_B].tolist(), errors_B[known_B].tolist(), strict=True):
            self._priorities[row] = error
            self._highest = max(self._highest, error)
            self._settle(self._places[row])
        self._count_changes(int(np.count_nonzero(known_B)))

    def state_dict(self) -> dict[str, Any]:
        return {
            **self._uniform.state_dict(),
            "priorities": torch.tensor(np.frombuffer(self._priorities)),
            "heap": torch.tensor(self._heap_R[: self.count]),
            "changes": self._changes,
            "highest": self._highest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._uniform.load_state_dict(state)
        np.frombuffer(self._priorities)[:] = state["priorities"].numpy()
        self._take_order(state["heap"].numpy())
        self._changes, self._highest = int(state["changes"]), float(state["highest"])

    def _integral(self, x: Numbers) -> Numbers:
        """The integral of x^-alpha from 1, whichever power remains: (x^power - 1) / power, or log x."""
        logarithms: Numbers = np.log(x)
        return np.expm1(self._power * logarithms) / self._power if self._power else logarithms

    def _inverse(self, y: Numbers) -> Numbers:
        return np.exp(np.log1p(self._power * y) / self._power if self._power else y)

    def _count_changes(self, changes: int) -> None:
        self._changes += changes
        if self._changes >= len(self._heap):
            self._changes = 0
            rows = self._heap_R[: self.count]
            self._take_order(rows[np.argsort(-np.frombuffer(self._priorities)[rows], kind="stable")])

    def _take_order(self, rows: "np.ndarray[Any, np.dtype[np.int32]]") -> None:
        self._heap_R[: len(rows)] = rows
        np.frombuffer(self._places, np.int32)[rows] = np.arange(len(rows))

    def _put(self, row: int, place: int) -> None:
        self._heap[place], self._places[row] = row, place

    def _settle(self, place: int) -> None:
        """Restore the heap after the priority of the row in this place has changed."""
        row = self._heap[place]
        self._raise(place)
        if self._heap[place] == row:
            self._lower(place)

    def _raise(self, place: int) -> None:
        row = self._heap[place]
        priority = self._priorities[row]
        while place > 0:
            above = self._heap[(place - 1) // 2]
            if self._priorities[above] >= priority:
                break
            self._put(above, place)
            place = (place - 1) // 2
        self._put(row, place)

    def _lower(self, place: int) -> None:
        row, count = self._heap[place], self._uniform.count
        priority = self._priorities[row]
        while (below := 2 * place + 1) < count:
            if below + 1 < count and self._priorities[self._heap[below + 1]] > self._priorities[self._heap[below]]:
                below += 1
            if self._priorities[self._heap[below]] <= priority:
                break
            self._put(self._heap[below], place)
            place = below
        self._put(row, place)
