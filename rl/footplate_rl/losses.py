"""Losses of actor-critic agents.

Axes: M transition of a microbatch, P number that describes a policy, X all axes of an action.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from footplate.step import Mean
from footplate.update import LossTerms
from footplate_rl.distributions import Distribution
from footplate_rl.recurrent import Memory


class ActorCriticTerms(NamedTuple):
    """The three parts of the loss, each a sum over the valid transitions."""

    policy: Tensor
    value: Tensor
    entropy: Tensor


def actor_critic_terms(
    outputs_MP: Tensor,
    values_M: Tensor,
    actions_MX: Tensor,
    returns_M: Tensor,
    valid_M: Tensor,
    distribution: Distribution,
) -> ActorCriticTerms:
    """Sums over the valid transitions of

        policy   -log pi(a | s) (R - V(s)), the advantage taken as a constant
        value    (R - V(s))^2
        entropy  of pi(. | s), in nats

    Source: Clemente et al. 2017 (arXiv 1705.04862), algorithm 1; Mnih et al. 2016 (arXiv 1602.01783), section 4.
    """
    log_chosen_M, entropy_M = distribution.evaluate(outputs_MP, actions_MX)
    # Chosen before any product: a row that is no transition may hold anything, and the gradient of 0 * nan is nan.
    error_M = torch.where(valid_M, returns_M - values_M.to(log_chosen_M.dtype), 0.0)
    return ActorCriticTerms(
        policy=-(log_chosen_M * error_M.detach()).sum(),
        value=error_M.square().sum(),
        entropy=torch.where(valid_M, entropy_M, 0.0).sum(),
    )


class Microbatch(NamedTuple):
    """One microbatch of an actor-critic learner."""

    observations: Tensor
    """Of shape (M, ...), in the dtype of the environment."""
    actions_MX: Tensor
    returns_M: Tensor
    valid_M: Tensor
    memory: Memory | None = None
    """What a network with a memory starts from; None for one without."""


class ActorCriticLoss(nn.Module):
    """policy + value_weight * value - entropy_weight * entropy, summed over the valid transitions.

    The sum is over transitions and `count` says how many, so that the update divides by all that its microbatches and
    ranks hold: the mean over n_e * t_max of the paper.
    """

    def __init__(
        self, network: nn.Module, distribution: Distribution, value_weight: float, entropy_weight: float
    ) -> None:
        super().__init__()
        self.network = network
        self.distribution = distribution
        self.value_weight = value_weight
        self.entropy_weight = entropy_weight

    def forward(self, batch: Microbatch) -> LossTerms:
        """The loss of a microbatch; `train/policy_loss`, `train/value_loss`, `train/entropy` (nats) a transition."""
        inputs = (batch.observations,) if batch.memory is None else (batch.observations, batch.memory)
        outputs_MP, values_M = self.network(*inputs)
        terms = actor_critic_terms(
            outputs_MP, values_M, batch.actions_MX, batch.returns_M, batch.valid_M, self.distribution
        )
        total = terms.policy + self.value_weight * terms.value - self.entropy_weight * terms.entropy
        count = batch.valid_M.sum()
        metrics = {
            "train/policy_loss": Mean(terms.policy.detach(), count),
            "train/value_loss": Mean(terms.value.detach(), count),
            "train/entropy": Mean(terms.entropy.detach(), count),
        }
        return LossTerms(total, count, metrics)
