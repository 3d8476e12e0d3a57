"""Autoreset: what happens around the end of an episode, in this file and nowhere else.

A vector environment starts a finished environment anew by itself, in one of two modes (gymnasium's names).
*Same step*: the step that ends an episode already returns the first observation of the next one, and hands over the
last observation separately. *Next step*: it returns the last observation, and the following step ignores its action,
resets and is no transition. Either way the transitions, and so the targets of learning, are the same.

Axes: N environments, K truncated rows, O all axes of one observation.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from footplate_rl.environments import Episode, Observations, Transitions

Mode = Literal["same_step", "next_step"]


class Autoreset:
    """Turns what a vector environment returned into `Transitions`, and keeps the books of the episodes in progress."""

    def __init__(self, mode: Mode, indices: Sequence[int]) -> None:
        self.mode = mode
        self._indices = indices
        self.restart()

    def restart(self) -> None:
        """Every environment was reset from outside: what was in progress is forgotten, and none waits for a reset."""
        count = len(self._indices)
        self._is_resetting_N = np.zeros(count, np.bool_)
        self._total_reward_N = np.zeros(count, np.float64)
        self.steps_N = np.zeros(count, np.int64)

    def transitions(
        self,
        observations_NO: Observations,
        rewards_N: NDArray[Any],
        terminated_N: NDArray[np.bool_],
        truncated_N: NDArray[np.bool_],
        final_observations: Sequence[Any] | NDArray[Any] | None,
        life_lost_N: NDArray[np.bool_] | None = None,
        lost_N: NDArray[np.bool_] | None = None,
    ) -> Transitions:
        """What the step was worth.

        Where `lost_N` an environment failed and was started anew: what is observed there begins an episode, the step
        was no transition, and the episode in progress is forgotten.

        `final_observations` holds, under same step, the last observation at the rows of environments that just ended
        (other rows are not read), and is None if none did; under next step it is not looked at.
        """
        valid_N = ~self._is_resetting_N if lost_N is None else ~(self._is_resetting_N | lost_N)
        ended_N = (terminated_N | truncated_N) & valid_N
        truncated_N = ended_N & ~terminated_N
        (rows_K,) = np.nonzero(truncated_N)
        if self.mode == "next_step" or not len(rows_K):
            final_observations_KO = observations_NO[rows_K]
        else:
            assert final_observations is not None
            final_observations_KO = np.stack([final_observations[row] for row in rows_K.tolist()])

        rewards_N = np.where(valid_N, rewards_N, 0.0)
        self._total_reward_N += rewards_N
        self.steps_N += valid_N
        episodes = tuple(
            Episode(self._indices[row], float(self._total_reward_N[row]), int(self.steps_N[row]))
            for row in np.nonzero(ended_N)[0].tolist()
        )
        over_N = ended_N if lost_N is None else ended_N | lost_N
        self._total_reward_N[over_N] = 0.0
        self.steps_N[over_N] = 0
        if self.mode == "next_step":
            self._is_resetting_N = ended_N
        terminated_N = terminated_N & valid_N
        return Transitions(
            observations_NO=observations_NO,
            rewards_N=rewards_N,
            terminated_N=terminated_N,
            truncated_N=truncated_N,
            return_ended_N=terminated_N if life_lost_N is None else terminated_N | (life_lost_N & valid_N),
            valid_N=valid_N,
            final_observations_KO=final_observations_KO,
            episodes=episodes,
        )
