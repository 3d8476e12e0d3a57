"""Action values: the network that estimates them, and the loss by which it learns them.

Axes: M observation of the batch, A action.
"""

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from footplate.errors import FootplateError
from footplate.step import Mean
from footplate.update import LossTerms
from footplate_rl.losses import Microbatch
from footplate_rl.networks import MLP, NIPS, Nature, build_trunk, initialise_orthogonally, scaled


class QNetwork(nn.Module):
    """Q(s, a) of all actions, and the value of the best one."""

    def __init__(self, trunk: nn.Module, features: int, actions: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.action_values = nn.Linear(features, actions)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """values_MA, and max_a Q of each row, of observations of shape (M, ...)."""
        values_MA = self.action_values(self.trunk(scaled(observations, self.action_values.weight.dtype)))
        return values_MA, values_MA.amax(dim=-1)


def build_q_network(config: MLP | NIPS | Nature, observations: Box, actions: Discrete | Box) -> QNetwork:
    """The network for these spaces, its weights drawn from torch's global generator.

    Raises FootplateError where the spaces don't suit it.
    """
    if not isinstance(actions, Discrete):
        raise FootplateError(
            f"network: actions are {actions}; values are of discrete ones, so use an environment that has them, or a3c"
        )
    network = QNetwork(*build_trunk(config, observations), int(actions.n))
    if config.initialiser == "orthogonal":
        initialise_orthogonally(network, {network.action_values: 1.0})
    return network


class QLoss(nn.Module):
    """(R - Q(s, a))^2, summed over the valid transitions.

    Source: Mnih et al. 2016 (arXiv 1602.01783), algorithm S2.
    """

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Microbatch) -> LossTerms:
        """The loss of a microbatch, and `train/action_value`, the mean Q(s, a)."""
        values_MA, _ = self.network(batch.observations)
        chosen_M = values_MA.gather(1, batch.actions_MX.unsqueeze(1)).squeeze(1)
        error_M = torch.where(batch.valid_M, batch.returns_M - chosen_M, 0.0)
        count = batch.valid_M.sum()
        seen_M = torch.where(batch.valid_M, chosen_M.detach(), 0.0)
        return LossTerms(error_M.square().sum(), count, {"train/action_value": Mean(seen_M.sum(), count)})
