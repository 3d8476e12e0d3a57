"""A sum tree: numbers that can be changed, and found by where a point falls in their running sum.

Axes: B points or changed numbers, C children of a node.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FAN_OUT = 16
"""Children of a node. NumPy's price is by the call: at 1M numbers a binary tree has 20 levels, this one two."""
_WIDEST_TOP = 4096


class SumTree:
    """The sums over `size` numbers, none negative, in float64.

    A parent is always computed anew from its children, never adjusted by a difference, so no error adds up: the tree
    depends on its numbers alone, not on how they came there.
    """

    def __init__(self, size: int) -> None:
        self._levels = [np.zeros(-(-size // FAN_OUT) * FAN_OUT)]
        while len(self._levels[-1]) > _WIDEST_TOP:
            nodes = len(self._levels[-1]) // FAN_OUT
            self._levels.append(np.zeros(-(-nodes // FAN_OUT) * FAN_OUT))
        self.numbers: NDArray[np.float64] = self._levels[0][:size]
        """The numbers themselves, to read; `set` changes them."""

    def set(self, indices_B: NDArray[np.intp], numbers_B: NDArray[np.float64] | float) -> None:
        """Change some of the numbers; of an index that comes twice the last one stays."""
        self._levels[0][indices_B] = numbers_B
        nodes_B = indices_B
        for children, parents in pairwise(self._levels):
            nodes_B = nodes_B // FAN_OUT
            # A node that comes twice is computed twice, to the same sum: cheaper than finding out.
            parents[nodes_B] = np.add.reduce(children.reshape(-1, FAN_OUT).take(nodes_B, axis=0), axis=1)

    def set_all(self, numbers: NDArray[np.float64]) -> None:
        """Change all of them."""
        self.numbers[:] = numbers
        for children, parents in pairwise(self._levels):
            sums = np.add.reduce(children.reshape(-1, FAN_OUT), axis=1)
            parents[: len(sums)] = sums

    def total(self) -> float:
        """The sum of all numbers."""
        return float(self._levels[-1].cumsum()[-1])

    def find(self, shares_B: NDArray[np.float64]) -> NDArray[np.intp]:
        """For shares of the total in [0, 1): the index i with sum of numbers before i <= share * total < that up to i.

        A number that is 0 is never found, whatever rounding does. There must be one that is not.

        >>> tree = SumTree(4)
        >>> tree.set(np.arange(4), np.array([1.0, 0.0, 2.0, 1.0]))
        >>> tree.find(np.array([0.0, 0.24, 0.25, 0.74, 0.76])).tolist()
        [0, 0, 2, 2, 3]
        """
        cumulative = self._levels[-1].cumsum()
        points_B = np.minimum(shares_B * cumulative[-1], np.nextafter(cumulative[-1], 0.0))
        nodes_B: NDArray[np.intp] = cumulative.searchsorted(points_B, side="right")
        points_B = points_B - (cumulative[nodes_B] - self._levels[-1][nodes_B])
        for children in reversed(self._levels[:-1]):
            children_BC = children.reshape(-1, FAN_OUT).take(nodes_B, axis=0)
            cumulative_BC = children_BC.cumsum(axis=1)
            # The parent may be the larger by a rounding error, and the point must not fall behind its last child.
            points_B = np.minimum(points_B.clip(0.0), np.nextafter(cumulative_BC[:, -1], 0.0))
            chosen_B = (cumulative_BC <= points_B[:, None]).argmin(axis=1)  # the first that is not
            rows_B = np.arange(len(nodes_B))
            points_B = points_B - (cumulative_BC[rows_B, chosen_B] - children_BC[rows_B, chosen_B])
            nodes_B = nodes_B * FAN_OUT + chosen_B
        return nodes_B
