"""From observations to actions: the policy that a network describes, for acting, evaluating and watching.

Axes: N environment, X all axes of an action, O all axes of an observation, U unit of a memory.
"""

from typing import Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Space
from numpy.typing import NDArray
from torch import Tensor, nn

from footplate.context import Context
from footplate_rl.distributions import Sampler, distribution_of
from footplate_rl.networks import MLP, NIPS, Nature, build_network
from footplate_rl.recurrent import LSTM, Memory, RecurrentActorCritic, build_recurrent_network

ActionChoice = Literal["sampled", "greedy"]


class Policy:
    """A network that acts."""

    def __init__(
        self, network: nn.Module, sampler: Sampler, context: Context, choice: ActionChoice = "sampled"
    ) -> None:
        self.network = network
        self.sampler = sampler
        self.choice = choice
        self._context = context
        self._state_2NU: Tensor | None = None

    @torch.inference_mode()
    def act(
        self,
        observations_NO: NDArray[Any],
        uniforms_NX: NDArray[np.float64],
        begins_N: NDArray[np.bool_] | None = None,
    ) -> NDArray[Any]:
        """An action for each environment; where the choice is greedy the uniform numbers are not looked at.

        `begins_N` says whose observation is the first of an episode, None: all. A policy with a memory forgets there.
        """
        outputs_NP, _ = self.look(observations_NO, begins_N)
        if self.choice == "greedy":
            actions_NX = self.sampler.likeliest(outputs_NP)
        else:
            uniforms = torch.from_numpy(uniforms_NX).to(self._context.device)
            actions_NX = self.sampler.sample(outputs_NP, uniforms)
        result: NDArray[Any] = actions_NX.cpu().numpy()
        return result

    @torch.inference_mode()
    def look(self, observations_NO: NDArray[Any], begins_N: NDArray[np.bool_] | None = None) -> tuple[Tensor, Tensor]:
        """outputs_NP and values_N of the network; whoever looks, or acts, at each step is remembered as `act` says."""
        observations = torch.from_numpy(observations_NO).to(self._context.device)
        with self._context.autocast():
            if isinstance(self.network, RecurrentActorCritic):
                begins = np.ones(len(observations), np.bool_) if begins_N is None else begins_N
                memory = Memory(self._state_2NU, torch.from_numpy(begins).to(self._context.device).unsqueeze(0))
                outputs_NP, values_N, self._state_2NU = self.network.unroll(observations, memory)
            else:
                outputs_NP, values_N = self.network(observations)
        return outputs_NP, values_N

    def fresh(self) -> "Policy":
        """The same policy, with nothing remembered."""
        return Policy(self.network, self.sampler, self._context, self.choice)


def build_policy_network(
    network: MLP | NIPS | Nature, memory: LSTM | None, observations: Space[Any], actions: Space[Any]
) -> nn.Module:
    """The network of these sections for these spaces, its weights drawn from torch's global generator."""
    if memory is None:
        return build_network(network, observations, actions)
    return build_recurrent_network(network, memory, observations, actions)


def load_policy(
    network: MLP | NIPS | Nature,
    observations: Space[Any],
    actions: Space[Any],
    context: Context,
    choice: ActionChoice = "sampled",
    memory: LSTM | None = None,
) -> Policy:
    """The policy saved in `context.checkpoint`, for environments of these spaces."""
    context.seed_torch("initialise")
    model = context.place(build_policy_network(network, memory, observations, actions))
    context.restore(model=model)
    return Policy(model, distribution_of(actions), context, choice)
