"""Which rows of a replay are drawn: uniformly, or in proportion to their priority.

Axes: B rows of a batch, R all rows.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from footplate_rl.replay.sum_tree import SumTree

Rows = NDArray[np.intp]
Numbers = NDArray[np.float64]


class Drawn(NamedTuple):
    """Rows, and how probable each was."""

    rows_B: Rows
    probabilities_B: Numbers


class Selection(Protocol):
    """Knows which rows may be drawn, and draws."""

    @property
    def count(self) -> int:
        """How many rows may be drawn, N."""

    def enter(self, rows: Rows) -> None:
        """These may be drawn from now on; new ones have the highest priority there ever was."""

    def leave(self, rows: Rows) -> None:
        """These may no longer be drawn."""

    def draw(self, size: int, generator: np.random.Generator) -> Drawn:
        """So many rows, with replacement; there must be one that may be drawn."""

    def update(self, rows_B: Rows, errors_B: Numbers) -> None:
        """What was learnt from rows: their errors |delta|. Of a row that comes twice the last one counts.

        A row that may no longer be drawn keeps none, and an error that is not finite changes nothing.
        """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Uniform:
    """Every row that may be drawn is as probable as the others."""

    def __init__(self, rows: int) -> None:
        self.count = 0
        self.may_be_drawn_R = np.zeros(rows, np.bool_)
        self._used = 0  # the highest row that could ever be drawn, and one: it does not fall when that row leaves

    def enter(self, rows: Rows) -> None:
        if len(rows):
            self.may_be_drawn_R[rows] = True
            self.count += len(rows)
            self._used = max(self._used, int(rows.max()) + 1)

    def leave(self, rows: Rows) -> None:
        self.may_be_drawn_R[rows] = False
        self.count -= len(rows)

    def draw(self, size: int, generator: np.random.Generator) -> Drawn:
        rows_B = generator.integers(self._used, size=size)
        wrong_B = ~self.may_be_drawn_R[rows_B]
        while wrong_B.any():  # a few at the ring's seam and at the ends of episodes
            rows_B[wrong_B] = generator.integers(self._used, size=int(np.count_nonzero(wrong_B)))
            wrong_B = ~self.may_be_drawn_R[rows_B]
        return Drawn(rows_B, np.full(size, 1 / self.count))

    def update(self, rows_B: Rows, errors_B: Numbers) -> None:
        """Nothing depends on errors here."""

    def state_dict(self) -> dict[str, Any]:
        return {"may_be_drawn": torch.from_numpy(self.may_be_drawn_R), "used": self._used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.may_be_drawn_R[:] = state["may_be_drawn"].numpy()
        self.count, self._used = int(np.count_nonzero(self.may_be_drawn_R)), int(state["used"])


class Proportional:
    """P(i) = (1 - mix) p_i^alpha / sum_k p_k^alpha + mix / N, with p_i = |delta_i| + epsilon.

    A batch of B is stratified: the total is cut into B equal ranges, and each gives one row.

    Source: Schaul et al. 2016, "Prioritized experience replay" (arXiv 1511.05952), section 3.3 and appendix B.2.1; the
    uniform mix is that of DeepMind's published agents (dqn_zoo).
    """

    def __init__(self, rows: int, alpha: float, epsilon: float, mix: float) -> None:
        self._alpha, self._epsilon, self._mix = alpha, epsilon, mix
        self._uniform = Uniform(rows)
        self._tree = SumTree(rows)
        self._highest = 1.0

    @property
    def count(self) -> int:
        return self._uniform.count

    def enter(self, rows: Rows) -> None:
        self._uniform.enter(rows)
        self._tree.set(rows, self._highest)

    def leave(self, rows: Rows) -> None:
        if len(rows):
            self._uniform.leave(rows)
            self._tree.set(rows, 0.0)

    def draw(self, size: int, generator: np.random.Generator) -> Drawn:
        rows_B = self._tree.find((np.arange(size) + generator.random(size)) / size)
        if number := generator.binomial(size, self._mix):
            rows_B[generator.choice(size, number, replace=False)] = self._uniform.draw(number, generator).rows_B
        probabilities_B = self._tree.numbers.take(rows_B) * ((1 - self._mix) / self._tree.total())
        return Drawn(rows_B, probabilities_B + self._mix / self.count)

    def update(self, rows_B: Rows, errors_B: Numbers) -> None:
        known_B = self._uniform.may_be_drawn_R.take(rows_B) & np.isfinite(errors_B)
        if not known_B.all():
            rows_B, errors_B = rows_B[known_B], errors_B[known_B]
        if len(rows_B):
            powers_B = (errors_B + self._epsilon) ** self._alpha
            self._highest = max(self._highest, float(powers_B.max()))
            self._tree.set(rows_B, powers_B)

    def state_dict(self) -> dict[str, Any]:
        powers = torch.from_numpy(self._tree.numbers)
        return {**self._uniform.state_dict(), "powers": powers, "highest": self._highest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._uniform.load_state_dict(state)
        self._tree.set_all(state["powers"].numpy())
        self._highest = float(state["highest"])
