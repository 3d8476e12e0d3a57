"""Networks of agents that learn values of actions: from a batch of observations to Q(s, a) for every a.

Axes: M observation of the batch, A action, F feature.
"""

from typing import Annotated, Any, Literal

import torch
from gymnasium.spaces import Discrete, Space
from pydantic import Field
from torch import Tensor, nn

from footplate.section import Count, Section
from footplate_rl.networks import MLP, NIPS, Initialiser, Nature, build_network


class ValueMLP(Section):
    """Fully connected layers over the flattened observation."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Count, ...] = (256, 256)
    """The width of each hidden layer."""
    activation: Literal["tanh", "relu"] = "relu"
    initialiser: Initialiser = "torch"
    """How the weights start: as `torch` does, uniform within 1 / sqrt(inputs), or `orthogonal`."""


ValueNetwork = Annotated[ValueMLP | NIPS | Nature, Field(discriminator="kind")]


class QNetwork(nn.Module):
    """Q(s, a), or V(s) + A(s, a) - mean over b of A(s, b) where it is dueling; bytes are scaled by 1/255 inside.

    Source: Wang et al. 2016, "Dueling network architectures" (arXiv 1511.06581), equation 9.
    """

    def __init__(self, trunk: nn.Sequential, value_stream: nn.Module | None, features: int, actions: int) -> None:
        """`value_stream` is what V has to itself in place of the trunk's last layer; None where it is not dueling."""
        super().__init__()
        self.trunk = trunk if value_stream is None else trunk[:-2]
        self.advantage_stream = nn.Sequential() if value_stream is None else trunk[-2:]
        self.value_stream = value_stream
        self.advantage = nn.Linear(features, actions)
        self.value = None if value_stream is None else nn.Linear(features, 1)

    def forward(self, observations: Tensor) -> Tensor:
        """values_MA of observations of shape (M, ...)."""
        if observations.ndim == 4 and observations.device.type == "cpu" and torch.is_grad_enabled():
            # The CPU's backward convolutions are twice as fast channels-last; forward alone they are no faster.
            observations = observations.contiguous(memory_format=torch.channels_last)
        inputs = observations.to(self.advantage.weight.dtype)
        if observations.dtype == torch.uint8:
            inputs = inputs.mul_(1 / 255)  # in place: `to` has just made this tensor
        shared_MF = self.trunk(inputs)
        advantages_MA: Tensor = self.advantage(self.advantage_stream(shared_MF))
        if self.value is None or self.value_stream is None:
            return advantages_MA
        values_M1: Tensor = self.value(self.value_stream(shared_MF))
        return values_M1 + advantages_MA - advantages_MA.mean(dim=1, keepdim=True)


def build_q_network(
    config: ValueMLP | NIPS | Nature, observations: Space[Any], actions: Space[Any], *, dueling: bool
) -> QNetwork:
    """The network for these spaces, its weights drawn from torch's global generator.

    Dueling streams part before the last hidden layer, which each has to itself. Raises FootplateError where the spaces
    don't suit it.
    """
    layers: MLP | NIPS | Nature = MLP(**config.model_dump(), shared=True) if isinstance(config, ValueMLP) else config
    first, second = (build_network(layers, observations, actions) for _ in range(2))
    trunk, value_trunk = first.policy_trunk, second.policy_trunk
    assert isinstance(trunk, nn.Sequential)
    assert isinstance(value_trunk, nn.Sequential)
    assert isinstance(actions, Discrete)
    value_stream = value_trunk[-2:] if dueling else None
    network = QNetwork(trunk, value_stream, first.policy.in_features, int(actions.n))
    if config.initialiser == "orthogonal":
        for head in filter(None, (network.advantage, network.value)):
            nn.init.orthogonal_(head.weight)
            nn.init.zeros_(head.bias)
    return network
