"""Losses of actor-critic agents.

Axes: M transition of a microbatch, A action.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from footplate.step import Mean
from footplate.update import LossTerms


class ActorCriticTerms(NamedTuple):
    """The three parts of the loss, each a sum over the valid transitions."""

    policy: Tensor
    value: Tensor
    entropy: Tensor


def actor_critic_terms(
    logits_MA: Tensor, values_M: Tensor, actions_M: Tensor, returns_M: Tensor, valid_M: Tensor
) -> ActorCriticTerms:
    """Sums over the valid transitions of

        policy   -log pi(a | s) (R - V(s)), the advantage taken as a constant
        value    (R - V(s))^2
        entropy  -sum_a pi(a | s) log pi(a | s), in nats

    Source: Clemente et al. 2017 (arXiv 1705.04862), algorithm 1; Mnih et al. 2016 (arXiv 1602.01783), section 4.
    """
    log_policy_MA = F.log_softmax(logits_MA.float() if logits_MA.dtype != torch.float64 else logits_MA, dim=-1)
    values_M = values_M.to(log_policy_MA.dtype)
    log_chosen_M = log_policy_MA.gather(1, actions_M.unsqueeze(1)).squeeze(1)
    # Chosen before any product: a row that is no transition may hold anything, and the gradient of 0 * nan is nan.
    error_M = torch.where(valid_M, returns_M - values_M, 0.0)
    return ActorCriticTerms(
        policy=-(log_chosen_M * error_M.detach()).sum(),
        value=error_M.square().sum(),
        entropy=torch.where(valid_M, -(log_policy_MA.exp() * log_policy_MA).sum(-1), 0.0).sum(),
    )


class Microbatch(NamedTuple):
    """One microbatch of an actor-critic learner."""

    observations: Tensor
    """Of shape (M, ...), in the dtype of the environment."""
    actions_M: Tensor
    returns_M: Tensor
    valid_M: Tensor


class ActorCriticLoss(nn.Module):
    """policy + value_weight * value - entropy_weight * entropy, summed over the valid transitions.

    The sum is over transitions and `count` says how many, so that the update divides by all that its microbatches and
    ranks hold: the mean over n_e * t_max of the paper.
    """

    def __init__(self, network: nn.Module, value_weight: float, entropy_weight: float) -> None:
        super().__init__()
        self.network = network
        self.value_weight = value_weight
        self.entropy_weight = entropy_weight

    def forward(self, batch: Microbatch) -> LossTerms:
        """The loss of a microbatch; `train/policy_loss`, `train/value_loss`, `train/entropy` (nats) a transition."""
        logits_MA, values_M = self.network(batch.observations)
        terms = actor_critic_terms(logits_MA, values_M, batch.actions_M, batch.returns_M, batch.valid_M)
        total = terms.policy + self.value_weight * terms.value - self.entropy_weight * terms.entropy
        count = batch.valid_M.sum()
        metrics = {
            "train/policy_loss": Mean(terms.policy.detach(), count),
            "train/value_loss": Mean(terms.value.detach(), count),
            "train/entropy": Mean(terms.entropy.detach(), count),
        }
        return LossTerms(total, count, metrics)
