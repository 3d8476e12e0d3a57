"""The explorer: who plays environments into a replay, with an epsilon that falls.

Axes: N environment, O all axes of one observation, T step.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from footplate.section import Fraction, Section, WholeNumber
from footplate_rl.environments import Environments, Episode, Observations, Transitions
from footplate_rl.policy import Policy


class FallingEpsilon(Section):
    """How often a random action is taken: in a straight line from `initial` to `final`, then constant."""

    initial: Fraction = 1.0
    """While the replay is filled, and when learning starts."""
    final: Fraction = 0.1
    """From `decay_frames` on."""
    decay_frames: WholeNumber = 4_000_000
    """How many frames, over all environments, lie between the start of learning and `final`."""

    def at(self, frames: int) -> float:
        """Epsilon when so many frames have passed since learning started.

        >>> [FallingEpsilon(decay_frames=100).at(frames) for frames in (0, 50, 1000)]
        [1.0, 0.55, 0.1]
        """
        share = min(1.0, frames / self.decay_frames) if self.decay_frames else 1.0
        return self.final + (1 - share) * (self.initial - self.final)


class ReplayMemory(Protocol):
    """A `Replay`, or whatever else remembers what was played."""

    def add(
        self,
        observations_NO: Observations,
        actions_N: NDArray[np.int64],
        step: Transitions,
        rewards_N: NDArray[np.float64],
    ) -> object: ...

    def cut(self, observations_NO: Observations) -> object: ...


class Explorer:
    """Plays environments into a replay."""

    def __init__(
        self,
        environments: Environments,
        policy: Policy,
        replay: ReplayMemory,
        reward_clip: float | None,
        reward_scale: float = 1.0,
    ) -> None:
        """What is kept of a reward is clipped to +-`reward_clip` and then scaled."""
        self._environments, self.policy, self._replay = environments, policy, replay
        self._clip, self._scale = reward_clip, reward_scale
        self.observations_NO: NDArray[Any] = np.empty(0)
        """What is acted on next."""
        self.episodes: list[Episode] = []
        """Those that came to their end since this was emptied."""
        self.transitions = 0
        """How many there were since this was set to zero."""

    def reset(self, number: int) -> None:
        """All environments start anew with the seeds of their `number`-th reset."""
        self.observations_NO = self._environments.reset(number)

    def cut(self) -> None:
        """Let the replay end what is in progress, before a reset."""
        self._replay.cut(self.observations_NO)

    def play(self, uniforms_TN: NDArray[np.float64]) -> None:
        """A step for each row of uniform numbers."""
        for uniforms_N in uniforms_TN:
            actions_N = self.policy.act(self.observations_NO, uniforms_N)
            step = self._environments.step(actions_N)
            rewards_N = step.rewards_N if self._clip is None else step.rewards_N.clip(-self._clip, self._clip)
            self._replay.add(self.observations_NO, actions_N, step, rewards_N * self._scale)
            self.observations_NO = step.observations_NO
            self.episodes += step.episodes
            self.transitions += int(np.count_nonzero(step.valid_N))
