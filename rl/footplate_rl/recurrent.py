"""A network with a memory: an LSTM between the features of an observation and the heads of policy and value.

Axes: T step, N environment, M = T * N, in that order; F feature, U unit, 2 what the LSTM puts out and its cell, P
number that describes the policy.
"""

from typing import Literal, NamedTuple

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from footplate.section import Count, Section
from footplate_rl.networks import MLP, NIPS, ActorCritic, Nature, build_network, scaled


class LSTM(Section):
    """A long short-term memory that remembers within an episode."""

    kind: Literal["lstm"] = "lstm"
    units: Count = 256
    """How many numbers it puts out, and as many it keeps to itself."""


class Memory(NamedTuple):
    """What a sequence of observations starts from."""

    state_2NU: Tensor | None
    """The state after the observation before the first one, without a gradient; None: nothing is remembered."""
    begins_TN: Tensor
    """Where an observation is the first of an episode: nothing from before it is remembered."""


class RecurrentActorCritic(nn.Module):
    """The trunk and the heads of an actor-critic network with an LSTM between them.

    Source: Mnih et al. 2016 (arXiv 1602.01783), section 5.1: an LSTM of 256 units after the last hidden layer.
    """

    def __init__(self, network: ActorCritic, units: int) -> None:
        """`network` has one trunk, and heads that take `units` features."""
        super().__init__()
        self.network = network
        self.cell = nn.LSTMCell(network.features, units)

    def forward(self, observations: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """outputs_MP and values_M of observations of shape (M, ...)."""
        outputs_MP, values_M, _ = self.unroll(observations, memory)
        return outputs_MP, values_M

    def unroll(self, observations: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """The same, and state_2NU after the last observation."""
        features_MF = self.network.policy_trunk(scaled(observations, self.cell.weight_hh.dtype))
        keeps_TN1 = (~memory.begins_TN).unsqueeze(-1).to(features_MF.dtype)
        features_TNF = features_MF.unflatten(0, memory.begins_TN.shape)
        if memory.state_2NU is None:
            hidden_NU = cell_NU = features_MF.new_zeros(keeps_TN1.shape[1], self.cell.hidden_size)
        else:
            hidden_NU, cell_NU = memory.state_2NU.to(features_MF.dtype)
        outputs = []
        for features_NF, keeps_N1 in zip(features_TNF, keeps_TN1, strict=True):
            hidden_NU, cell_NU = self.cell(features_NF, (hidden_NU * keeps_N1, cell_NU * keeps_N1))
            outputs.append(hidden_NU)
        outputs_MP, values_M = self.network.heads(torch.cat(outputs))
        return outputs_MP, values_M, torch.stack([hidden_NU, cell_NU])


def build_recurrent_network(
    config: MLP | NIPS | Nature, memory: LSTM, observations: Space[object], actions: Space[object]
) -> RecurrentActorCritic:
    """The network with this memory for these spaces, its weights drawn from torch's global generator.

    Policy and value share a trunk. Raises FootplateError where the spaces don't suit it.
    """
    return RecurrentActorCritic(build_network(config, observations, actions, memory.units), memory.units)
