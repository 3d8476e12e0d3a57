"""The replay: what was played, each frame once; stacks, n-step returns and next observations are made when drawn.

A batch is a function of what the replay holds and of the random stream that it is drawn with, and of nothing else.

Axes: B rows of a batch, N environments, n some of them, O all axes of one observation, F of one frame, W rows from the
oldest frame of the observation to the newest of the next one, J transitions of a window, R all rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from footplate.segments import Segments
from footplate_rl.environments import Observations, Transitions
from footplate_rl.replay.frames import Frames, SavedFrames
from footplate_rl.replay.ring import ENDED, TRANSITION, TRUNCATED, Ring, Rows
from footplate_rl.replay.selection import Selection


@dataclass(frozen=True, slots=True)
class Batch:
    """B windows of up to n transitions: the target of each is return + bootstrap * V(next observation).

    Observations are good until the next batch is drawn, which is written over them.
    """

    rows_B: Rows
    """Which they are; `Replay.update` takes them."""
    observations_BO: Observations
    actions_B: NDArray[np.int64]
    returns_B: NDArray[np.float64]
    """r_0 + discount r_1 + ... + discount^(k-1) r_{k-1}, over the k transitions of the window."""
    bootstraps_B: NDArray[np.float64]
    """discount^k, or 0 where the return ended within the window."""
    next_observations_BO: Observations
    """What the window's last transition led to; where nothing is bootstrapped, anything."""
    weights_B: NDArray[np.float64]
    """(N P)^-beta, divided by the largest of the batch; ones for a uniform replay."""


class Replay:
    """The newest transitions of N environments that step together, whose observations are stacks of `stack` frames."""

    def __init__(self, frames: Frames, ring: Ring, selection: Selection, discount: float, actions: int) -> None:
        """`actions` is how many there are; `selection` knows the same rows as `ring`."""
        self._frames, self._ring, self._selection = frames, ring, selection
        self._saved = SavedFrames(frames)
        self._actions_R = np.zeros(ring.rows, np.min_scalar_type(actions))
        self._rewards_R = np.zeros(ring.rows, np.float32)
        self._channels = frames.shape[0] if ring.stack > 1 else 1
        self._offsets_W = np.arange(1 - ring.stack, ring.n_step + 1) * ring.environments
        self._discounts_J = discount ** np.arange(ring.n_step + 1.0)

    def __len__(self) -> int:
        """How many windows can be drawn."""
        return self._selection.count

    def add(
        self,
        observations_NO: Observations,
        actions_N: NDArray[np.int64],
        step: Transitions,
        rewards_N: NDArray[np.float64],
        first: int = 0,
    ) -> Rows:
        """What the actions led to, from these observations, with the rewards to learn from (kept in float32).

        An episode whose step was no transition was lost with its environment: it ends at the observation acted on.
        Where the environments are some of the replay's, `first` is the first of them. Returns the windows that are
        whole by this, in an order that does not depend on `first` or on how large the replay is.
        """
        lost = self._cut(self._in_progress(first, ~step.valid_N), observations_NO, first)
        (acted_n,) = np.nonzero(step.valid_N)
        rows_n = self._append(first + acted_n, observations_NO[acted_n])
        truncated_n, ended_n = step.truncated_N[acted_n], step.return_ended_N[acted_n]
        self._actions_R[rows_n] = actions_N[acted_n]
        self._rewards_R[rows_n] = rewards_N[acted_n]
        self._ring.marks_R[rows_n] = TRANSITION + ENDED * ended_n + TRUNCATED * truncated_n
        if truncated_n.any():
            self._append(first + acted_n[truncated_n], step.final_observations_KO)
        self._ring.end_episode(first + acted_n[(step.terminated_N | step.truncated_N)[acted_n]])
        whole = self._entered(rows_n, ended_n | truncated_n)
        return np.concatenate([lost, whole]) if len(lost) else whole

    def cut(self, observations_NO: Observations, first: int = 0) -> Rows:
        """Every episode in progress ends here as if truncated, at the observations that would be acted on next.

        `first` and what is returned are as for `add`.
        """
        return self._cut(self._in_progress(first, np.ones(len(observations_NO), np.bool_)), observations_NO, first)

    def _in_progress(self, first: int, asked_N: NDArray[np.bool_]) -> Rows:
        """Those of the environments asked for, from `first` on, whose last row is not the end of their episode."""
        rows_n = self._ring.in_progress()
        rows_n = rows_n[(rows_n >= first) & (rows_n < first + len(asked_N))]
        return rows_n[asked_N[rows_n - first]]

    def _cut(self, cut_n: Rows, observations_NO: Observations, first: int) -> Rows:
        if not len(cut_n):
            return cut_n
        rows_n = self._ring.newest(cut_n)
        self._ring.marks_R[rows_n] |= TRUNCATED
        self._append(cut_n, observations_NO[cut_n - first])
        self._ring.end_episode(cut_n)
        return self._entered(rows_n, np.ones(len(rows_n), np.bool_))

    def _entered(self, rows_n: Rows, ends_n: NDArray[np.bool_]) -> Rows:
        whole = self._ring.completed_by(rows_n, ends_n)
        self._selection.enter(whole)
        return whole

    def sample(self, size: int, generator: np.random.Generator, beta: float = 1.0) -> Batch:
        """So many windows, with replacement; there must be one."""
        drawn = self._selection.draw(size, generator)
        weights_B = (self._selection.count * drawn.probabilities_B) ** -beta
        return self.windows(drawn.rows_B, weights_B / weights_B.max())

    def windows(self, rows_B: Rows, weights_B: NDArray[np.float64]) -> Batch:
        """These windows, with these weights."""
        ring = self._ring
        rows_BW = (rows_B[:, None] + self._offsets_W) % ring.rows
        returns_B, bootstraps_B, lengths_B = self._returns(rows_BW[:, ring.stack - 1 : -1])
        observations_BO, next_observations_BO = self._observations(rows_BW, lengths_B)
        return Batch(
            rows_B,
            observations_BO,
            self._actions_R.take(rows_B).astype(np.int64),
            returns_B,
            bootstraps_B,
            next_observations_BO,
            weights_B,
        )

    def update(self, rows_B: Rows, errors_B: NDArray[Any]) -> None:
        """The errors |delta|, before any clipping, that learning from these windows found."""
        self._selection.update(rows_B, errors_B.astype(np.float64))

    def save_to(self, segments: Segments) -> dict[str, Any]:
        """Frames go into segments, of which only those are written that hold a new one; the rest is small."""
        used = self._ring.used
        return {
            "frames": self._saved.save(segments, used),
            "actions": torch.from_numpy(self._actions_R[:used]),
            "rewards": torch.from_numpy(self._rewards_R[:used]),
            "ring": self._ring.state_dict(),
            "selection": self._selection.state_dict(),
        }

    def load_from(self, state: Mapping[str, Any], segments: Segments) -> None:
        self._ring.load_state_dict(state["ring"])
        self._selection.load_state_dict(state["selection"])
        used = self._ring.used
        self._actions_R[:used] = state["actions"].numpy()
        self._rewards_R[:used] = state["rewards"].numpy()
        self._saved.load(state["frames"], segments)

    def _append(self, environments_n: Rows, observations_nO: Observations) -> Rows:
        rows_n, broken = self._ring.append(environments_n)
        self._selection.leave(broken)
        newest_nF = observations_nO if self._ring.stack == 1 else observations_nO[:, -self._channels :]
        self._frames.write(rows_n, newest_nF)
        self._saved.changed(rows_n)
        return rows_n

    def _returns(self, window_BJ: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp] | None]:
        """Returns, bootstraps, and the windows' lengths; None where all that are bootstrapped from are n_step long."""
        marks_BJ = self._ring.marks_R.take(window_BJ)
        rewards_BJ = self._rewards_R.take(window_BJ).astype(np.float64)
        if self._ring.n_step == 1:
            return rewards_BJ[:, 0], np.where(marks_BJ[:, 0] & ENDED, 0.0, self._discounts_J[1]), None
        stops_BJ = marks_BJ & (ENDED | TRUNCATED) != 0
        stops_BJ[:, -1] = True
        lengths_B = stops_BJ.argmax(axis=1) + 1
        ended_B = marks_BJ[np.arange(len(marks_BJ)), lengths_B - 1] & ENDED != 0
        rewards_BJ[np.arange(self._ring.n_step) >= lengths_B[:, None]] = 0.0
        returns_B = (rewards_BJ * self._discounts_J[:-1]).sum(axis=1)
        bootstraps_B = np.where(ended_B, 0.0, self._discounts_J[lengths_B])
        is_short = (~ended_B & (lengths_B < self._ring.n_step)).any()
        return returns_B, bootstraps_B, np.where(ended_B, self._ring.n_step, lengths_B) if is_short else None

    def _observations(self, rows_BW: Rows, lengths_B: NDArray[np.intp] | None) -> tuple[Observations, Observations]:
        """The stacks that end at the windows' first rows, and at those behind their last transitions.

        Both are cut from one gathering: with n_step 1 four of five frames are shared.
        """
        stack, size = self._ring.stack, len(rows_BW)
        frames_BWF = self._frames.gather(rows_BW)
        # Before an episode's first frame a stack shows nothing.
        if stack > 1:
            hidden_BW = np.arange(rows_BW.shape[1]) < stack - 1 - self._ring.ages_R[rows_BW[:, stack - 1, None]]
            if hidden_BW.any():
                frames_BWF[hidden_BW] = 0
        if lengths_B is None:
            later_BWF = frames_BWF[:, -stack:]
        else:
            later_BWF = frames_BWF[np.arange(size)[:, None], lengths_B[:, None] + np.arange(stack)]
        shape = (size, stack * self._channels, *self._frames.shape[1:]) if stack > 1 else (size, *self._frames.shape)
        return frames_BWF[:, :stack].reshape(shape), later_BWF.reshape(shape)
