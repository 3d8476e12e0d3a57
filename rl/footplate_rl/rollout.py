"""A rollout: T steps of N environments under one policy, in memory that is written over each time.

Axes: T rollout step, S rollout step with one more at the end (S = T + 1), N environment of this rank (of a group where
it is about one), K truncated row, O all axes of one observation, M = T * n transitions of a microbatch of n
environments.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor

from footplate.context import Context
from footplate.step import Mean, Metric
from footplate_rl.environments import Episode
from footplate_rl.groups import Group
from footplate_rl.losses import Microbatch
from footplate_rl.networks import ActorCritic
from footplate_rl.policy import sample_actions
from footplate_rl.returns import n_step_returns


def episode_metrics(episodes: Sequence[Episode], context: Context) -> dict[str, Metric]:
    """`rollout/return` (raw) and `rollout/length` (steps) over the episodes of all ranks; every rank must call it."""
    totals = [float(len(episodes)), sum(e.total_reward for e in episodes), float(sum(e.steps for e in episodes))]
    number, reward, steps = context.sum(torch.tensor(totals, dtype=torch.float64)).tolist()
    return {"rollout/return": Mean(reward, number), "rollout/length": Mean(steps, number)}


class Rollout:
    """What `collect` saw and did, as tensors on the rank's device."""

    episodes: list[Episode]
    """The episodes that came to their end in it."""

    def __init__(self, steps: int, count: int, space: Box, context: Context) -> None:
        """For `count` environments whose observations are in `space`."""
        device, shape_TN = context.device, (steps, count)
        values_dtype = torch.float64 if context.precision == "fp64" else torch.float32
        sample = torch.from_numpy(np.empty(0, space.dtype))
        observations_dtype = sample.dtype if sample.dtype == torch.uint8 else values_dtype
        self.episodes = []
        self._context = context
        self.observations_TNO = torch.zeros((*shape_TN, *space.shape), dtype=observations_dtype, device=device)
        self.actions_TN = torch.zeros(shape_TN, dtype=torch.int64, device=device)
        self.values_SN = torch.zeros((steps + 1, count), dtype=values_dtype, device=device)
        self.final_values_TN = torch.zeros(shape_TN, dtype=values_dtype, device=device)
        # These come from the emulators: written as NumPy rows, moved to the device once a rollout.
        self.rewards_TN = np.zeros(shape_TN, np.float64)
        self.ended_TN = np.zeros(shape_TN, np.bool_)
        self.truncated_TN = np.zeros(shape_TN, np.bool_)
        self.valid_TN = np.zeros(shape_TN, np.bool_)

    @property
    def transitions(self) -> int:
        """How many of the rollout's rows are transitions of an environment."""
        return int(np.count_nonzero(self.valid_TN))

    @torch.inference_mode()
    def collect(self, network: ActorCritic, groups: Sequence[Group], uniforms_TN: NDArray[np.float64]) -> None:
        """Act T steps in each group, from where it stands.

        Actions are drawn from the policy at the uniform numbers, one for each step and environment. While the emulators
        of one group are at work, the network acts for the next.
        """
        self.episodes = []
        uniforms = torch.from_numpy(uniforms_TN).to(self.values_SN.device)
        for t, uniforms_N in enumerate(uniforms):
            for group in groups:
                if t > 0:
                    self._receive(network, t - 1, group)
                self._act(network, t, group, uniforms_N[group.rows])
        for group in groups:
            self._receive(network, len(uniforms) - 1, group)
            observations_NO = torch.from_numpy(group.observations_NO).to(self.observations_TNO)
            _, self.values_SN[-1, group.rows] = self._forward(network, observations_NO)

    def _act(self, network: ActorCritic, t: int, group: Group, uniforms_N: Tensor) -> None:
        observations_NO = self.observations_TNO[t, group.rows]
        observations_NO.copy_(torch.from_numpy(group.observations_NO))
        logits_NA, self.values_SN[t, group.rows] = self._forward(network, observations_NO)
        actions_N = sample_actions(logits_NA, uniforms_N)
        self.actions_TN[t, group.rows] = actions_N
        group.environments.send(actions_N.cpu().numpy())

    def _receive(self, network: ActorCritic, t: int, group: Group) -> None:
        step, rows = group.environments.recv(), group.rows
        group.observations_NO = step.observations_NO
        self.rewards_TN[t, rows], self.ended_TN[t, rows] = step.rewards_N, step.return_ended_N
        self.truncated_TN[t, rows], self.valid_TN[t, rows] = step.truncated_N, step.valid_N
        if len(step.final_observations_KO):
            final_KO = torch.from_numpy(step.final_observations_KO).to(self.observations_TNO)
            final_values_N = self.final_values_TN[t, rows]
            final_values_N[self._to_device(step.truncated_N)] = self._forward(network, final_KO)[1]
        self.episodes += step.episodes

    def returns(self, discount: float, reward_clip: float | None = None, reward_scale: float = 1.0) -> Tensor:
        """The n-step returns of the rewards, each clipped to [-reward_clip, reward_clip] and then scaled."""
        rewards_TN = self.rewards_TN if reward_clip is None else self.rewards_TN.clip(-reward_clip, reward_clip)
        return n_step_returns(
            self._to_device(rewards_TN * reward_scale).to(self.values_SN.dtype),
            self._to_device(self.ended_TN),
            self._to_device(self.truncated_TN),
            self._to_device(self.valid_TN),
            self.values_SN,
            self.final_values_TN,
            discount,
        )

    def microbatches(self, returns_TN: Tensor, count: int) -> Iterator[Microbatch]:
        """The rollout in `count` pieces, each of whole environments in their order."""
        valid_TN = self._to_device(self.valid_TN)
        size = returns_TN.shape[1] // count
        for first in range(0, size * count, size):
            rows = slice(first, first + size)
            yield Microbatch(
                self.observations_TNO[:, rows].flatten(0, 1),
                self.actions_TN[:, rows].flatten(),
                returns_TN[:, rows].flatten(),
                valid_TN[:, rows].flatten(),
            )

    def _forward(self, network: ActorCritic, observations: Tensor) -> tuple[Tensor, Tensor]:
        with self._context.autocast():
            logits_NA, values_N = network(observations)
        return logits_NA, values_N.to(self.values_SN.dtype)

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.values_SN.device)
