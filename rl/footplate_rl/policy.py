"""From observations to actions: the policy that a network describes, for acting, evaluating and watching.

Axes: N environment, A action.
"""

from typing import Any, Literal, Protocol

import numpy as np
import torch
from gymnasium.spaces import Space
from numpy.typing import NDArray
from torch import Tensor

from footplate.context import Context
from footplate_rl.networks import MLP, NIPS, ActorCritic, Nature, build_network

Choice = Literal["sampled", "greedy"]


def sample_actions(logits_NA: Tensor, uniforms_N: Tensor) -> Tensor:
    """One action a row from softmax(logits), by inverting its distribution function at uniform numbers in [0, 1).

    One number a row, so that an environment's actions don't depend on which other environments share its batch.

    >>> logits_NA = torch.log(torch.tensor([[0.2, 0.5, 0.3]])).repeat(4, 1)
    >>> sample_actions(logits_NA, torch.tensor([0.0, 0.19, 0.69, 0.71])).tolist()
    [0, 0, 1, 2]
    """
    cumulative_NA = torch.softmax(logits_NA.double(), dim=-1).cumsum(dim=-1)
    # The last sum may round to less than 1: scaling by it keeps the index below A.
    thresholds_N1 = (uniforms_N.double() * cumulative_NA[:, -1]).unsqueeze(1)
    return (cumulative_NA[:, :-1] <= thresholds_N1).sum(dim=-1)


class Player(Protocol):
    """Whatever acts."""

    def act(self, observations_NO: NDArray[Any], uniforms_N: NDArray[np.float64]) -> NDArray[np.int64]:
        """An action for each environment, a function of its observation and its uniform number."""


class Policy:
    """A network that acts."""

    def __init__(self, network: ActorCritic, context: Context, choice: Choice = "sampled") -> None:
        self.network = network
        self.choice = choice
        self._context = context

    @torch.inference_mode()
    def act(self, observations_NO: NDArray[Any], uniforms_N: NDArray[np.float64]) -> NDArray[np.int64]:
        """An action for each environment; where the choice is greedy the uniform numbers are not looked at."""
        with self._context.autocast():
            logits_NA, _ = self.network(torch.from_numpy(observations_NO).to(self._context.device))
        if self.choice == "greedy":
            actions_N = logits_NA.argmax(dim=-1)
        else:
            actions_N = sample_actions(logits_NA, torch.from_numpy(uniforms_N).to(self._context.device))
        result: NDArray[np.int64] = actions_N.cpu().numpy()
        return result


def load_policy(
    network: MLP | NIPS | Nature,
    observations: Space[Any],
    actions: Space[Any],
    context: Context,
    choice: Choice = "sampled",
) -> Policy:
    """The policy saved in `context.checkpoint`, for environments of these spaces."""
    context.seed_torch("initialise")
    model = context.place(build_network(network, observations, actions))
    context.restore(model=model)
    return Policy(model, context, choice)
