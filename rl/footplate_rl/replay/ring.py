"""The ring: which row holds what, and which rows are the start of a whole window.

Each environment writes its steps one after another into its own rows, the oldest first to be written over. Row p of
environment n lies at p * N + n, so that the row after row r is r + N, around the end to the beginning.

    step 7           observation, action, reward
    step 8           observation, action, reward; truncated here
    what 8 led to    the episode's last observation; no transition
    step 0           observation, action, reward of the next episode

Wherever an episode is truncated its last observation gets a row, so what a transition led to is always in the row
after it. After a terminal state nothing is bootstrapped, and there is none. What an autoreset mode does with its rows
shows nowhere: `Transitions` are the same.

Axes: N environments, n some of them, J offsets within a window, R all rows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Rows = NDArray[np.intp]
TRANSITION, ENDED, TRUNCATED = 1, 2, 4
"""What is known of a row: that it is a transition, that its return ended there, that its episode was cut there."""


class Ring:
    """Books of rows, for windows of `n_step` transitions under stacks of `stack` frames."""

    def __init__(self, environments: int, rows_each: int, n_step: int, stack: int) -> None:
        assert rows_each > n_step + stack
        self.environments, self.rows, self.stack, self.n_step = environments, environments * rows_each, stack, n_step
        self._rows_each = rows_each
        self.marks_R = np.zeros(self.rows, np.uint8)
        self.ages_R = np.zeros(self.rows, np.uint8)
        """How many frames of its episode lie before a row's, counted to stack - 1."""
        self._whole_R = np.zeros(self.rows, np.bool_)
        self._written_N = np.zeros(environments, np.int64)
        self._age_N = np.zeros(environments, np.int64)

    @property
    def used(self) -> int:
        """Rows from here on have never been written."""
        return int(min(self._written_N.max(), self._rows_each)) * self.environments

    def append(self, environments_n: Rows) -> tuple[Rows, Rows]:
        """A new row, which is no transition yet, for each of these environments, and what is no longer whole by it."""
        rows_n = (self._written_N[environments_n] % self._rows_each) * self.environments + environments_n
        broken = self._broken_by(rows_n)
        self._whole_R[broken] = False
        self.marks_R[rows_n] = 0
        self.ages_R[rows_n] = np.minimum(self._age_N[environments_n], self.stack - 1)
        self._age_N[environments_n] += 1
        self._written_N[environments_n] += 1
        return rows_n, broken

    def completed_by(self, rows_n: Rows, ends_n: NDArray[np.bool_]) -> Rows:
        """The rows whose windows are whole now that these are, which follow them within n_step.

        A window is whole where its n_step transitions and the row behind them are there, or where it ends before that.
        """
        candidates = (rows_n - self.n_step * self.environments) % self.rows
        if ends_n.any():
            offsets_J = np.arange(self.n_step) * self.environments
            candidates = np.concatenate([candidates, ((rows_n[ends_n, None] - offsets_J) % self.rows).ravel()])
        is_new = (self.marks_R[candidates] & TRANSITION).astype(np.bool_) & ~self._whole_R[candidates]
        whole = candidates[is_new]
        self._whole_R[whole] = True
        return whole

    def in_progress(self) -> Rows:
        """The environments whose last row is not the end of their episode."""
        return np.nonzero(self._age_N)[0]

    def newest(self, environments_n: Rows) -> Rows:
        """The last row of each of these environments."""
        newest_n: Rows = self._written_N[environments_n] - 1
        return newest_n % self._rows_each * self.environments + environments_n

    def end_episode(self, environments_n: Rows) -> None:
        """What these environments write next begins an episode."""
        self._age_N[environments_n] = 0

    def _broken_by(self, rows_n: Rows) -> Rows:
        """The rows that are written over, and those that show a frame of them."""
        later = np.arange(self.stack)
        candidates: Rows = (rows_n[:, None] + later * self.environments) % self.rows
        broken: Rows = candidates[self._whole_R[candidates] & (self.ages_R[candidates] >= later)]
        return broken

    def state_dict(self) -> dict[str, Any]:
        used = self.used
        return {
            "marks": torch.from_numpy(self.marks_R[:used]),
            "ages": torch.from_numpy(self.ages_R[:used]),
            "whole": torch.from_numpy(self._whole_R[:used]),
            "written": torch.from_numpy(self._written_N),
            "age": torch.from_numpy(self._age_N),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._written_N[:] = state["written"].numpy()
        self._age_N[:] = state["age"].numpy()
        for name, own in (("marks", self.marks_R), ("ages", self.ages_R), ("whole", self._whole_R)):
            own[: self.used] = state[name].numpy()
