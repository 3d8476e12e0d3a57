"""A sum tree: numbers that can be changed, and found by where a point falls in their running sum.

Axes: B points or changed numbers, C children of a node.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_FAN_OUT = 16
"""Children of a node. NumPy's price is by the call: at 1M numbers a binary tree has 20 levels, this one three."""
_WIDEST_TOP = 8192

Indices = NDArray[np.intp]
Numbers = NDArray[np.float64]


class SumTree:
    """The sums over `size` numbers, none negative, in float64.

    A node is always computed anew from its children, never adjusted by a difference, so no error adds up: the tree
    depends on its numbers alone, not on how they came there.
    """

    def __init__(self, size: int) -> None:
        self._levels = [np.zeros(-(-size // _FAN_OUT) * _FAN_OUT)]
        while len(self._levels[-1]) > _WIDEST_TOP:
            nodes = len(self._levels[-1]) // _FAN_OUT
            self._levels.append(np.zeros(-(-nodes // _FAN_OUT) * _FAN_OUT))
        self._running_top: Numbers | None = None
        self.numbers: Numbers = self._levels[0][:size]
        """The numbers themselves, to read; `set` changes them."""

    def set(self, indices_B: Indices, numbers_B: Numbers | float) -> None:
        """Change some of the numbers; of an index that comes twice the last one stays."""
        self._levels[0][indices_B] = numbers_B
        for children, parents in pairwise(self._levels):
            indices_B = indices_B // _FAN_OUT
            # A node that comes twice is computed twice, to the same sum: cheaper than finding out.
            parents[indices_B] = np.add.reduce(children.reshape(-1, _FAN_OUT).take(indices_B, axis=0), axis=1)
        self._running_top = None

    def set_all(self, numbers: Numbers) -> None:
        """Change all of them."""
        self.numbers[:] = numbers
        for children, parents in pairwise(self._levels):
            sums = np.add.reduce(children.reshape(-1, _FAN_OUT), axis=1)
            parents[: len(sums)] = sums
        self._running_top = None

    def total(self) -> float:
        """The sum of all numbers."""
        return float(self._running()[-1])

    def find(self, shares_B: Numbers) -> Indices:
        """For shares of the total in [0, 1): the index i with sum of numbers before i <= share * total < that up to i.

        A number that is 0 is never found, whatever rounding does. There must be one that is not.

        >>> tree = SumTree(4)
        >>> tree.set(np.arange(4), np.array([1.0, 0.0, 2.0, 1.0]))
        >>> tree.find(np.array([0.0, 0.24, 0.25, 0.74, 0.76])).tolist()
        [0, 0, 2, 2, 3]
        """
        running = self._running()
        points_B = np.minimum(shares_B * running[-1], np.nextafter(running[-1], 0.0))
        nodes_B: Indices = running.searchsorted(points_B, side="right")
        points_B -= running.take(nodes_B) - self._levels[-1].take(nodes_B)
        rows_B = np.arange(len(nodes_B))
        for children in reversed(self._levels[:-1]):
            running_BC = children.reshape(-1, _FAN_OUT).take(nodes_B, axis=0).cumsum(axis=1)
            # Rounding may have pushed a point out of its node, and it must not fall behind the last child.
            np.minimum(points_B, np.nextafter(running_BC[:, -1], 0.0), out=points_B)
            np.maximum(points_B, 0.0, out=points_B)
            chosen_B = (running_BC <= points_B[:, None]).argmin(axis=1)  # the first that is not
            nodes_B = nodes_B * _FAN_OUT + chosen_B
            points_B -= running_BC[rows_B, chosen_B] - children.take(nodes_B)
        return nodes_B

    def _running(self) -> Numbers:
        if self._running_top is None:
            self._running_top = self._levels[-1].cumsum()
        return self._running_top
