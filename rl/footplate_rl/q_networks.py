"""Networks of DQN: plain or dueling, from a batch of observations to Q(s, a) for every a.

Axes: M observation of the batch, A action, F feature.
"""

from typing import Annotated, Literal

from gymnasium.spaces import Box, Discrete
from pydantic import Field
from torch import Tensor, nn

from footplate.section import Count, Section
from footplate_rl.action_values import QNetwork, build_q_network
from footplate_rl.networks import MLP, NIPS, Initialiser, Nature, build_trunk, initialise_orthogonally, scaled


class ValueMLP(Section):
    """Fully connected layers over the flattened observation."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Count, ...] = (256, 256)
    """The width of each hidden layer."""
    activation: Literal["tanh", "relu"] = "relu"
    initialiser: Initialiser = "torch"
    """How the weights start: as `torch` does, uniform within 1 / sqrt(inputs), or `orthogonal`."""


ValueNetwork = Annotated[ValueMLP | NIPS | Nature, Field(discriminator="kind")]


class DuelingNetwork(nn.Module):
    """Q(s, a) = V(s) + A(s, a) - mean over b of A(s, b), and the value of the best action.

    V and A part before the trunk's last layer, which each has to itself.

    Source: Wang et al. 2016, "Dueling network architectures" (arXiv 1511.06581), equation 9.
    """

    def __init__(self, trunk: nn.Sequential, value_trunk: nn.Sequential, features: int, actions: int) -> None:
        """Of `value_trunk` only the last layer is used."""
        super().__init__()
        self.trunk, self.advantage_stream, self.value_stream = trunk[:-2], trunk[-2:], value_trunk[-2:]
        self.advantages = nn.Linear(features, actions)
        self.value = nn.Linear(features, 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """values_MA, and max_a Q of each row, of observations of shape (M, ...)."""
        shared_MF = self.trunk(scaled(observations, self.value.weight.dtype))
        advantages_MA = self.advantages(self.advantage_stream(shared_MF))
        values_M1 = self.value(self.value_stream(shared_MF))
        values_MA = values_M1 + advantages_MA - advantages_MA.mean(dim=1, keepdim=True)
        return values_MA, values_MA.amax(dim=-1)


def build_value_network(
    config: ValueMLP | NIPS | Nature, observations: Box, actions: Discrete | Box, *, dueling: bool
) -> QNetwork | DuelingNetwork:
    """The network for these spaces, its weights drawn from torch's global generator.

    Raises FootplateError where the spaces don't suit it.
    """
    layers: MLP | NIPS | Nature = MLP(**config.model_dump(), shared=True) if isinstance(config, ValueMLP) else config
    plain = build_q_network(layers, observations, actions)
    if not dueling:
        return plain
    value_trunk, features = build_trunk(layers, observations)
    assert isinstance(plain.trunk, nn.Sequential)
    assert isinstance(value_trunk, nn.Sequential)
    network = DuelingNetwork(plain.trunk, value_trunk, features, plain.action_values.out_features)
    if config.initialiser == "orthogonal":
        initialise_orthogonally(network, {network.advantages: 1.0, network.value: 1.0})
    return network
