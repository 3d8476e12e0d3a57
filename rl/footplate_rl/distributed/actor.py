"""An actor of Ape-X: plays its environments, and hands over what it saw with the errors of its own network.

Axes: N environment, B window, O all axes of one observation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from footplate.context import Context
from footplate.job import Precision
from footplate_rl.distributed.config import Config
from footplate_rl.environments import Environments, Episode, Observations, Transitions, make_environments
from footplate_rl.explorer import Explorer
from footplate_rl.q_learning import bootstrap_values, n_step_targets
from footplate_rl.replay.kinds import UniformReplay, rows_needed, stacked_frames
from footplate_rl.replay.replay import Batch
from footplate_rl.value_learning import empty_replay, epsilon_greedy, value_network

Weights = Sequence[NDArray[Any]]


class Played(NamedTuple):
    """A step of an actor's environments, of each stack only the newest frame."""

    observations_NO: Observations
    actions_N: NDArray[np.int64]
    step: Transitions
    rewards_N: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What an actor played since it was last asked."""

    played: Sequence[Played]
    observations_NO: Observations
    """What it would act on next."""
    cut: bool
    """Whether every episode in progress ends there."""
    errors_B: NDArray[np.float64]
    """|target - Q(s, a)| by its own network for each window that is whole by this, as `Replay.add` returns them."""
    transitions: int
    episodes: Sequence[Episode]


class Pending:
    """What is played and not handed over yet, and the windows whole by it, in a replay just large enough."""

    def __init__(self, config: Config, environments: Environments) -> None:
        stack = stacked_frames(config.environment)
        # An episode that is truncated takes two rows for its last step.
        rows = 2 * config.rollout_steps + 2 * rows_needed(config.n_step, stack)
        kind = UniformReplay(transitions=rows * config.environments)
        spaces = environments.observation_space, environments.action_space
        self._replay = empty_replay(config, kind, *spaces, config.environments)
        self._channels = spaces[0].shape[0] // stack if stack > 1 else None
        self._played: list[Played] = []
        self._whole: list[NDArray[np.intp]] = []

    def add(
        self,
        observations_NO: Observations,
        actions_N: NDArray[np.int64],
        step: Transitions,
        rewards_N: NDArray[np.float64],
    ) -> None:
        self._whole.append(self._replay.add(observations_NO, actions_N, step, rewards_N))
        final_KO = self.newest(step.final_observations_KO)
        small = replace(step, observations_NO=np.empty(0), final_observations_KO=final_KO, episodes=())
        self._played.append(Played(self.newest(observations_NO), actions_N, small, rewards_N))

    def cut(self, observations_NO: Observations) -> None:
        self._whole.append(self._replay.cut(observations_NO))

    def take(self) -> tuple[list[Played], Batch | None]:
        """What was played since the last time, and the windows that became whole."""
        played, whole = self._played, [rows for rows in self._whole if len(rows)]
        self._played, self._whole = [], []
        if not whole:
            return played, None
        rows_B = np.concatenate(whole)
        return played, self._replay.windows(rows_B, np.ones(len(rows_B)))

    def newest(self, observations_NO: Observations) -> Observations:
        """The newest frame of each stack."""
        return observations_NO if self._channels is None else observations_NO[:, -self._channels :].copy()


class Actor:
    """Worker of a pool: one of the actors, its exploration a step of the ladder for each of its environments."""

    def __init__(self, config: Config, index: int, seed: int, precision: Precision) -> None:
        self._config = config
        self._context = Context(seed=seed, precision="fp64" if precision == "fp64" else "fp32")
        first, count = index * config.environments, config.environments
        self._environments = make_environments(config.environment, count, first_index=first, seed=seed)
        spaces = self._environments.observation_space, self._environments.action_space
        self._network = value_network(config, *spaces, self._context)
        epsilon_N = config.exploration.rates(config.players)[first : first + count]
        self._policy = epsilon_greedy(self._network, spaces[1], epsilon_N, self._context)

    def reset(self, number: int) -> None:
        """The environments start anew with the seeds of their `number`-th reset; what was not handed over is lost."""
        self._pending = Pending(self._config, self._environments)
        rewards = self._config.reward_clip, self._config.reward_scale
        self._explorer = Explorer(self._environments, self._policy, self._pending, *rewards)
        self._explorer.reset(number)

    def play(self, number: int, weights: Weights | None) -> Chunk:
        """The rollout of this number, with newer weights where there are any."""
        if weights is not None:
            for parameter, newer in zip(self._network.parameters(), weights, strict=True):
                parameter.detach().numpy()[...] = newer
        shape_TN = self._config.rollout_steps, self._config.environments
        self._explorer.play(self._context.stream("act", number).random(shape_TN))
        return self._chunk(cut=False)

    def cut(self) -> Chunk:
        """Every episode in progress ends here."""
        self._explorer.cut()
        return self._chunk(cut=True)

    def _chunk(self, *, cut: bool) -> Chunk:
        played, whole = self._pending.take()
        errors_B = np.zeros(0) if whole is None else self._errors(whole)
        explorer = self._explorer
        transitions, episodes = explorer.transitions, explorer.episodes
        explorer.transitions, explorer.episodes = 0, []
        return Chunk(
            played, self._pending.newest(explorer.observations_NO), cut, errors_B, transitions, tuple(episodes)
        )

    @torch.inference_mode()
    def _errors(self, batch: Batch) -> NDArray[np.float64]:
        values_BA, _ = self._network(torch.from_numpy(batch.observations_BO))
        chosen_B = values_BA.gather(1, torch.from_numpy(batch.actions_B).unsqueeze(1)).squeeze(1)
        following_B = bootstrap_values(torch.from_numpy(batch.next_observations_BO), self._network, None)
        returns_B, bootstraps_B = torch.from_numpy(batch.returns_B), torch.from_numpy(batch.bootstraps_B)
        errors_B = n_step_targets(returns_B, bootstraps_B, following_B.double()) - chosen_B
        found: NDArray[np.float64] = errors_B.abs().numpy()
        return found

    def close(self) -> None:
        self._environments.close()
