"""Networks of actor-critic agents: from a batch of observations to the policy's logits and the value.

Axes: M observation of the batch, A action; C, H, W channel, height and width of an image; F feature.
"""

from collections.abc import Sequence
from math import prod, sqrt
from typing import Annotated, Literal

import torch
from gymnasium.spaces import Box, Discrete, Space
from pydantic import Field
from torch import Tensor, nn

from footplate.errors import FootplateError
from footplate.section import Count, Section

Initialiser = Literal["torch", "orthogonal"]


class MLP(Section):
    """Fully connected layers over the flattened observation."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Count, ...] = (64, 64)
    """The width of each hidden layer."""
    activation: Literal["tanh", "relu"] = "tanh"
    shared: bool = False
    """Whether policy and value stand on the same hidden layers, where the errors of one disturb the other."""
    initialiser: Initialiser = "orthogonal"
    """How the weights start: as `torch` does, uniform within 1 / sqrt(inputs), or `orthogonal`."""


class NIPS(Section):
    """The network of Mnih et al. 2013 (arXiv 1312.5602): 16 8x8/4, 32 4x4/2, 256; policy and value share it."""

    kind: Literal["nips"] = "nips"
    initialiser: Initialiser = "torch"
    """How the weights start: as `torch` does, uniform within 1 / sqrt(inputs), or `orthogonal`."""


class Nature(Section):
    """The network of Mnih et al. 2015 (Nature 518): 32 8x8/4, 64 4x4/2, 64 3x3/1, 512; policy and value share it."""

    kind: Literal["nature"] = "nature"
    initialiser: Initialiser = "torch"
    """How the weights start: as `torch` does, uniform within 1 / sqrt(inputs), or `orthogonal`."""


Network = Annotated[MLP | NIPS | Nature, Field(discriminator="kind")]

_CONVOLUTIONS: dict[str, Sequence[tuple[int, int, int]]] = {
    "nips": ((16, 8, 4), (32, 4, 2)),
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
}
_FEATURES = {"nips": 256, "nature": 512}


class ActorCritic(nn.Module):
    """Logits and values of a batch of observations; bytes are scaled by 1/255 inside."""

    def __init__(self, policy_trunk: nn.Module, value_trunk: nn.Module | None, features: int, actions: int) -> None:
        """`value_trunk` is None where the value stands on the policy's trunk."""
        super().__init__()
        self.policy_trunk = policy_trunk
        self.value_trunk = value_trunk
        self.policy = nn.Linear(features, actions)
        self.value = nn.Linear(features, 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """logits_MA and values_M of observations of shape (M, ...)."""
        if observations.ndim == 4 and observations.device.type == "cpu" and torch.is_grad_enabled():
            # The CPU's backward convolutions are twice as fast channels-last (NIPS: 185 us a transition against 398);
            # forward alone they are no faster.
            observations = observations.contiguous(memory_format=torch.channels_last)
        inputs = observations.to(self.value.weight.dtype)
        if observations.dtype == torch.uint8:
            inputs = inputs.mul_(1 / 255)  # in place: `to` has just made this tensor
        features_MF = self.policy_trunk(inputs)
        value_features_MF = features_MF if self.value_trunk is None else self.value_trunk(inputs)
        return self.policy(features_MF), self.value(value_features_MF).squeeze(-1)


def build_network(config: MLP | NIPS | Nature, observations: Space[object], actions: Space[object]) -> ActorCritic:
    """The network for these spaces, its weights drawn from torch's global generator.

    Raises FootplateError where the spaces don't suit it.
    """
    if not isinstance(actions, Discrete):
        raise FootplateError(f"network: actions are {actions}; use an environment with discrete actions.")
    if not isinstance(observations, Box):
        raise FootplateError(
            f"network: observations are {observations}; use an environment whose observations are one array."
        )
    if isinstance(config, MLP):
        width = prod(observations.shape)
        value_trunk = None if config.shared else _fully_connected(width, config)
        network = ActorCritic(
            _fully_connected(width, config), value_trunk, config.hidden[-1] if config.hidden else width, int(actions.n)
        )
    else:
        network = ActorCritic(
            _convolutional(config.kind, observations.shape), None, _FEATURES[config.kind], int(actions.n)
        )
    if config.initialiser == "orthogonal":
        _initialise_orthogonally(network)
    return network


def _fully_connected(width: int, config: MLP) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for hidden in config.hidden:
        layers += [nn.Linear(width, hidden), nn.Tanh() if config.activation == "tanh" else nn.ReLU()]
        width = hidden
    return nn.Sequential(*layers)


def _convolutional(kind: str, shape_CHW: Sequence[int]) -> nn.Sequential:
    if len(shape_CHW) != 3:
        raise FootplateError(
            f"network.kind: {kind} takes images (channels, height, width), not observations of shape "
            f"{tuple(shape_CHW)}; use mlp."
        )
    channels, height, width = shape_CHW
    layers: list[nn.Module] = []
    for filters, size, stride in _CONVOLUTIONS[kind]:
        if min(height, width) < size:
            smallest = {"nips": 20, "nature": 36}[kind]
            raise FootplateError(
                f"network.kind: {kind} takes images of {smallest} x {smallest} and more, "
                f"not of shape {tuple(shape_CHW)}; use mlp."
            )
        layers += [nn.Conv2d(channels, filters, size, stride), nn.ReLU()]
        channels, height, width = filters, (height - size) // stride + 1, (width - size) // stride + 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, _FEATURES[kind]), nn.ReLU())


def _initialise_orthogonally(network: ActorCritic) -> None:
    """Gain sqrt(2), 1 for the value, and 0.01 for the policy, which makes it start near uniform; no bias.

    Source: Saxe et al. 2014 (arXiv 1312.6120); the gains are what reproductions of A2C and PPO agree on.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            gain = 0.01 if layer is network.policy else 1.0 if layer is network.value else sqrt(2)
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
