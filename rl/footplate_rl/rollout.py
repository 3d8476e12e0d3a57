"""A rollout: T steps of N environments under one policy, in memory that is written over each time.

Axes: T rollout step, S rollout step with one more at the end (S = T + 1), N environment of this rank (of a group where
it is about one), K truncated row, O all axes of one observation, X of an action, P number that describes a policy,
M = T * n transitions of a microbatch of n environments, 2NU the two states of an LSTM of U units.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from torch import Tensor, nn

from footplate.context import Context
from footplate.step import Latest, Mean, Metric
from footplate_rl.distributions import Sampler
from footplate_rl.environments import Environments, Episode
from footplate_rl.groups import Group
from footplate_rl.losses import Microbatch
from footplate_rl.recurrent import Memory, RecurrentActorCritic
from footplate_rl.returns import GAE, NStep, generalised_advantages, n_step_returns


def means_of(episodes: Sequence[Episode]) -> dict[str, Mean]:
    """`rollout/return` (raw) and `rollout/length` (steps) over these episodes."""
    rewards, steps = sum(e.total_reward for e in episodes), float(sum(e.steps for e in episodes))
    return {"rollout/return": Mean(rewards, len(episodes)), "rollout/length": Mean(steps, len(episodes))}


def episode_metrics(episodes: Sequence[Episode], context: Context) -> dict[str, Metric]:
    """`means_of` the episodes of all ranks; every rank must call it."""
    own = means_of(episodes)
    sums = context.sum(torch.tensor([list(mean) for mean in own.values()], dtype=torch.float64)).tolist()
    return {name: Mean(*mean) for name, mean in zip(own, sums, strict=True)}


def restart_metrics(environments: Sequence[Environments], context: Context) -> dict[str, Metric]:
    """`rollout/restarts`: how many environments of all ranks failed and were started anew since these were made.

    Nothing where a failure ends the run; every rank must call it.
    """
    restarts = [one.restarts for one in environments if one.restarts is not None]
    return {"rollout/restarts": Latest(int(context.sum(torch.tensor(sum(restarts)))))} if restarts else {}


class Rollout:
    """What `collect` saw and did, as tensors on the rank's device."""

    episodes: list[Episode]
    """The episodes that came to their end in it."""

    def __init__(self, steps: int, count: int, space: Box, sampler: Sampler, context: Context) -> None:
        """For `count` environments whose observations are in `space`, and actions chosen by `sampler`."""
        device, shape_TN = context.device, (steps, count)
        values_dtype = torch.float64 if context.precision == "fp64" else torch.float32
        sample = torch.from_numpy(np.empty(0, space.dtype))
        observations_dtype = sample.dtype if sample.dtype == torch.uint8 else values_dtype
        actions_dtype = sampler.dtype or values_dtype
        self.episodes = []
        self.sampler = sampler
        self._context = context
        self.observations_TNO = torch.zeros((*shape_TN, *space.shape), dtype=observations_dtype, device=device)
        self.outputs_TNP = torch.zeros((*shape_TN, sampler.outputs), dtype=values_dtype, device=device)
        self.actions_TNX = torch.zeros((*shape_TN, *sampler.shape), dtype=actions_dtype, device=device)
        self.values_SN = torch.zeros((steps + 1, count), dtype=values_dtype, device=device)
        self.final_values_TN = torch.zeros(shape_TN, dtype=values_dtype, device=device)
        self.begins_TN = torch.zeros(shape_TN, dtype=torch.bool, device=device)
        self._state_2NU: Tensor | None = None
        # These come from the emulators: written as NumPy rows, moved to the device once a rollout.
        self.rewards_TN = np.zeros(shape_TN, np.float64)
        self.ended_TN = np.zeros(shape_TN, np.bool_)
        self.truncated_TN = np.zeros(shape_TN, np.bool_)
        self.valid_TN = np.zeros(shape_TN, np.bool_)

    @property
    def transitions(self) -> int:
        """How many of the rollout's rows are transitions of an environment."""
        return int(np.count_nonzero(self.valid_TN))

    @property
    def valid_M(self) -> Tensor:  # noqa: N802 - it ends in its axes
        """Which of the rollout's rows, T after T, are transitions."""
        return self._to_device(self.valid_TN).flatten()

    def collect(
        self,
        network: nn.Module,
        groups: Sequence[Group],
        uniforms_TNX: NDArray[np.float64],
        bootstrap: nn.Module | None = None,
    ) -> None:
        """Act T steps in each group, from where it stands.

        Actions are drawn from the policy at the uniform numbers, a set for each step and environment. While the
        emulators of one group are at work, the network acts for the next. `bootstrap` is another network, whose values
        of what follows the rollout and of the last observations of truncated episodes count.
        """
        self.episodes = []
        self._remember(network, groups)
        uniforms = torch.from_numpy(uniforms_TNX).to(self.values_SN.device)
        with torch.inference_mode():
            for t, uniforms_NX in enumerate(uniforms):
                for group in groups:
                    if t > 0:
                        self._receive(bootstrap or network, t - 1, group)
                    self._act(network, t, group, uniforms_NX[group.rows])
            for group in groups:
                self._receive(bootstrap or network, len(uniforms) - 1, group)
                observations_NO = torch.from_numpy(group.observations_NO).to(self.observations_TNO)
                _, self.values_SN[-1, group.rows], _ = self._forward(
                    bootstrap or network, observations_NO, group.state_2NU, self._to_device(group.begins_N)
                )

    def _remember(self, network: nn.Module, groups: Sequence[Group]) -> None:
        """Keep what a network with a memory knew before the rollout, for learning to start from."""
        if not isinstance(network, RecurrentActorCritic):
            return
        if self._state_2NU is None:
            units = network.cell.hidden_size
            self._state_2NU = self.values_SN.new_zeros(2, self.values_SN.shape[1], units)
        for group in groups:
            state_2NU = self._state_2NU[:, group.rows]
            state_2NU.zero_() if group.state_2NU is None else state_2NU.copy_(group.state_2NU)

    def _act(self, network: nn.Module, t: int, group: Group, uniforms_NX: Tensor) -> None:
        observations_NO = self.observations_TNO[t, group.rows]
        observations_NO.copy_(torch.from_numpy(group.observations_NO))
        begins_N = self.begins_TN[t, group.rows]
        begins_N.copy_(torch.from_numpy(group.begins_N))
        outputs_NP, self.values_SN[t, group.rows], group.state_2NU = self._forward(
            network, observations_NO, group.state_2NU, begins_N
        )
        actions_NX = self.sampler.sample(outputs_NP, uniforms_NX)
        self.outputs_TNP[t, group.rows] = outputs_NP.to(self.outputs_TNP.dtype)
        self.actions_TNX[t, group.rows] = actions_NX
        group.environments.send(actions_NX.cpu().numpy())

    def _receive(self, network: nn.Module, t: int, group: Group) -> None:
        step, rows = group.environments.recv(), group.rows
        group.observations_NO, group.begins_N = step.observations_NO, step.begins_N
        self.rewards_TN[t, rows], self.ended_TN[t, rows] = step.rewards_N, step.return_ended_N
        self.truncated_TN[t, rows], self.valid_TN[t, rows] = step.truncated_N, step.valid_N
        if len(step.final_observations_KO):
            final_KO = torch.from_numpy(step.final_observations_KO).to(self.observations_TNO)
            truncated_N = self._to_device(step.truncated_N)
            state = None if group.state_2NU is None else group.state_2NU[:, truncated_N]
            nowhere_K = torch.zeros(len(final_KO), dtype=torch.bool, device=final_KO.device)
            final_values_N = self.final_values_TN[t, rows]
            final_values_N[truncated_N] = self._forward(network, final_KO, state, nowhere_K)[1]
        self.episodes += step.episodes

    def returns(
        self,
        discount: float,
        reward_clip: float | None = None,
        reward_scale: float = 1.0,
        kind: NStep | GAE = NStep(),  # noqa: B008 - it is frozen
    ) -> Tensor:
        """The returns of the rewards, each clipped to [-reward_clip, reward_clip] and then scaled."""
        rewards_TN = self.rewards_TN if reward_clip is None else self.rewards_TN.clip(-reward_clip, reward_clip)
        seen = (
            self._to_device(rewards_TN * reward_scale).to(self.values_SN.dtype),
            self._to_device(self.ended_TN),
            self._to_device(self.truncated_TN),
            self._to_device(self.valid_TN),
            self.values_SN,
            self.final_values_TN,
        )
        if isinstance(kind, NStep):
            return n_step_returns(*seen, discount)
        return generalised_advantages(*seen, discount, kind.trace) + self.values_SN[:-1]

    def microbatches(self, returns_TN: Tensor, count: int) -> Iterator[Microbatch]:
        """The rollout in `count` pieces, each of whole environments in their order."""
        valid_TN = self._to_device(self.valid_TN)
        size = returns_TN.shape[1] // count
        for first in range(0, size * count, size):
            rows = slice(first, first + size)
            state = self._state_2NU
            yield Microbatch(
                self.observations_TNO[:, rows].flatten(0, 1),
                self.actions_TNX[:, rows].flatten(0, 1),
                returns_TN[:, rows].flatten(),
                valid_TN[:, rows].flatten(),
                None if state is None else Memory(state[:, rows], self.begins_TN[:, rows]),
            )

    def _forward(
        self, network: nn.Module, observations: Tensor, state_2NU: Tensor | None, begins_N: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Outputs, values, and what is remembered afterwards."""
        state: Tensor | None = None
        with self._context.autocast():
            if isinstance(network, RecurrentActorCritic):
                outputs_NP, values_N, state = network.unroll(observations, Memory(state_2NU, begins_N.unsqueeze(0)))
            else:
                outputs_NP, values_N = network(observations)
        return outputs_NP, values_N.to(self.values_SN.dtype), state

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.values_SN.device)
