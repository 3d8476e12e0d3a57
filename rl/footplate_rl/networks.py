"""Networks of actor-critic agents: from a batch of observations to what describes the policy, and the value.

Axes: M observation of the batch, A action, P number that describes the policy: logits_MA, or for continuous actions
means and logarithms of the standard deviations; C, H, W channel, height and width of an image; F feature.
"""

from collections.abc import Mapping, Sequence
from math import prod, sqrt
from typing import Annotated, Literal

import torch
from gymnasium.spaces import Box, Space
from pydantic import Field
from torch import Tensor, nn

from footplate.errors import FootplateError
from footplate.section import Count, Section
from footplate_rl.distributions import Categorical, distribution_of

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
    """Outputs of the policy and values of a batch of observations; bytes are scaled by 1/255 inside."""

    def __init__(
        self, policy_trunk: nn.Module, value_trunk: nn.Module | None, features: tuple[int, int], actions: int, axes: int
    ) -> None:
        """Trunks that put out `features[0]` features, heads that take `features[1]`: another number stands where
        something comes between. `value_trunk` is None where the value stands on the policy's.

        The policy has logits of `actions` discrete actions, or else means of `axes` continuous ones, whose deviations
        are parameters that do not depend on the observation and start at 1.
        """
        super().__init__()
        self.policy_trunk = policy_trunk
        self.value_trunk = value_trunk
        self.features = features[0]
        self.policy = nn.Linear(features[1], actions + axes)
        self.value = nn.Linear(features[1], 1)
        self.log_deviation_A = nn.Parameter(torch.zeros(axes)) if axes else None

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """outputs_MP and values_M of observations of shape (M, ...)."""
        inputs = scaled(observations, self.value.weight.dtype)
        features_MF = self.policy_trunk(inputs)
        return self.heads(features_MF, None if self.value_trunk is None else self.value_trunk(inputs))

    def heads(self, features_MF: Tensor, value_features_MF: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """outputs_MP and values_M of the features; the value has its own, or None."""
        outputs_MP = self.policy(features_MF)
        if self.log_deviation_A is not None:
            outputs_MP = torch.cat([outputs_MP, self.log_deviation_A.expand_as(outputs_MP)], dim=-1)
        return outputs_MP, self.value(features_MF if value_features_MF is None else value_features_MF).squeeze(-1)


def scaled(observations: Tensor, dtype: torch.dtype) -> Tensor:
    """What a trunk takes: numbers of this type, bytes brought to between 0 and 1."""
    if observations.ndim == 4 and observations.device.type == "cpu" and torch.is_grad_enabled():
        # The CPU's backward convolutions are twice as fast channels-last (NIPS: 185 us a transition against 398);
        # forward alone they are no faster.
        observations = observations.contiguous(memory_format=torch.channels_last)
    inputs = observations.to(dtype)
    if observations.dtype == torch.uint8:
        inputs = inputs.mul_(1 / 255)  # in place: `to` has just made this tensor
    return inputs


def build_network(
    config: MLP | NIPS | Nature,
    observations: Space[object],
    actions: Space[object],
    head_features: int | None = None,
) -> ActorCritic:
    """The network for these spaces, its weights drawn from torch's global generator.

    Its heads take `head_features`, None: what the trunk puts out. Raises FootplateError where the spaces don't suit it.
    """
    distribution = distribution_of(actions)
    policy_trunk, features = build_trunk(config, observations)
    value_trunk = None
    if isinstance(config, MLP) and not config.shared:
        # The order of the draws is that of the first recipes.
        policy_trunk, value_trunk = build_trunk(config, observations)[0], policy_trunk
    counts = (distribution.outputs, 0) if isinstance(distribution, Categorical) else (0, distribution.outputs // 2)
    network = ActorCritic(policy_trunk, value_trunk, (features, head_features or features), *counts)
    if config.initialiser == "orthogonal":
        initialise_orthogonally(network, {network.policy: 0.01, network.value: 1.0})
    return network


def build_trunk(config: MLP | NIPS | Nature, observations: Space[object]) -> tuple[nn.Module, int]:
    """The hidden layers, from observations of this space to features, and how many of those there are.

    Raises FootplateError where the space doesn't suit them.
    """
    if not isinstance(observations, Box):
        raise FootplateError(
            f"network: observations are {observations}; use an environment whose observations are one array"
        )
    if isinstance(config, MLP):
        width = prod(observations.shape)
        return _fully_connected(width, config), config.hidden[-1] if config.hidden else width
    return _convolutional(config.kind, observations.shape), _FEATURES[config.kind]


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
            f"{tuple(shape_CHW)}; use mlp"
        )
    channels, height, width = shape_CHW
    layers: list[nn.Module] = []
    for filters, size, stride in _CONVOLUTIONS[kind]:
        if min(height, width) < size:
            smallest = {"nips": 20, "nature": 36}[kind]
            raise FootplateError(
                f"network.kind: {kind} takes images of {smallest} x {smallest} and more, "
                f"not of shape {tuple(shape_CHW)}; use mlp"
            )
        layers += [nn.Conv2d(channels, filters, size, stride), nn.ReLU()]
        channels, height, width = filters, (height - size) // stride + 1, (width - size) // stride + 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, _FEATURES[kind]), nn.ReLU())


def initialise_orthogonally(network: nn.Module, gains: Mapping[nn.Module, float]) -> None:
    """Gain sqrt(2), no bias; other gains for heads: 1 for a value, 0.01 for a policy, which starts it near uniform.

    Source: Saxe et al. 2014 (arXiv 1312.6120); the gains are what reproductions of A2C and PPO agree on.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight, gains.get(layer, sqrt(2)))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
