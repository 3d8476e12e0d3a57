"""Epsilon-greedy: mostly the action of the highest value, now and then any.

Axes: N environment, A action, T step.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from footplate.context import Context
from footplate.section import Fraction, Section, WholeNumber
from footplate_rl.environments import Environments, Episode, Observations
from footplate_rl.replay.replay import Replay


class Exploration(Section):
    """How often a random action is taken: in a straight line from `initial` to `final`, then constant."""

    initial: Fraction = 1.0
    """While the replay is filled, and when learning starts."""
    final: Fraction = 0.1
    """From `decay_frames` on."""
    decay_frames: WholeNumber = 4_000_000
    """How many frames, over all environments, lie between the start of learning and `final`."""

    def at(self, frames: int) -> float:
        """Epsilon when so many frames have passed since learning started.

        >>> [Exploration(decay_frames=100).at(frames) for frames in (0, 50, 1000)]
        [1.0, 0.55, 0.1]
        """
        share = min(1.0, frames / self.decay_frames) if self.decay_frames else 1.0
        return self.final + (1 - share) * (self.initial - self.final)


def epsilon_greedy(values_NA: Tensor, uniforms_N: Tensor, epsilon: float) -> Tensor:
    """The action of the highest value where the uniform number is epsilon or more, else a random one.

    One number a row does both: below epsilon it is uniform in [0, epsilon).

    >>> epsilon_greedy(torch.tensor([[0.0, 1.0, 2.0]] * 4), torch.tensor([0.0, 0.2, 0.29, 0.3]), 0.3).tolist()
    [0, 2, 2, 2]
    >>> epsilon_greedy(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0.1]), 0.3).tolist()
    [1]
    """
    actions = values_NA.shape[1]
    random_N = (uniforms_N.double() / max(epsilon, 1e-300) * actions).long().clamp(max=actions - 1)
    return torch.where(uniforms_N < epsilon, random_N, values_NA.argmax(dim=1))


class EpsilonGreedy:
    """A network of action values that acts; `epsilon` may be changed at any time."""

    def __init__(self, network: nn.Module, context: Context, epsilon: float) -> None:
        self.network, self.epsilon = network, epsilon
        self._context = context

    @torch.inference_mode()
    def act(self, observations_NO: Observations, uniforms_N: NDArray[np.float64]) -> NDArray[np.int64]:
        """An action for each environment."""
        with self._context.autocast():
            values_NA = self.network(torch.from_numpy(observations_NO).to(self._context.device))
        uniforms = torch.from_numpy(uniforms_N).to(self._context.device)
        actions_N: NDArray[np.int64] = epsilon_greedy(values_NA, uniforms, self.epsilon).cpu().numpy()
        return actions_N


class Explorer:
    """Plays environments into a replay."""

    def __init__(
        self, environments: Environments, policy: EpsilonGreedy, replay: Replay, reward_clip: float | None
    ) -> None:
        self._environments, self._policy, self._replay, self._clip = environments, policy, replay, reward_clip
        self._observations_NO: NDArray[Any] = np.empty(0)
        self.episodes: list[Episode] = []
        """Those that came to their end since this was emptied."""
        self.transitions = 0
        """How many there were since this was set to zero."""

    def reset(self, number: int) -> None:
        """All environments start anew with the seeds of their `number`-th reset."""
        self._observations_NO = self._environments.reset(number)

    def cut(self) -> None:
        """Let the replay end what is in progress, before a reset."""
        self._replay.cut(self._observations_NO)

    def play(self, uniforms_TN: NDArray[np.float64]) -> None:
        """A step for each row of uniform numbers."""
        for uniforms_N in uniforms_TN:
            actions_N = self._policy.act(self._observations_NO, uniforms_N)
            step = self._environments.step(actions_N)
            rewards_N = step.rewards_N if self._clip is None else step.rewards_N.clip(-self._clip, self._clip)
            self._replay.add(self._observations_NO, actions_N, step, rewards_N)
            self._observations_NO = step.observations_NO
            self.episodes += step.episodes
            self.transitions += int(np.count_nonzero(step.valid_N))
