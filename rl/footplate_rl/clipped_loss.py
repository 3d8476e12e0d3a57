"""The loss of PPO: a rollout is learnt from several times, and no ratio of policies earns more than a clip allows.

Axes: M transition of a minibatch, P number that describes a policy, X all axes of an action.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from footplate.step import Mean
from footplate.update import LossTerms
from footplate_rl.distributions import Distribution


class ClippedWeights(NamedTuple):
    """The numbers in the loss."""

    clip_ratio: float
    """c."""
    clip_values: float | None
    """v, or None for no clip."""
    value_weight: float
    entropy_weight: float


class ClippedMicrobatch(NamedTuple):
    """Transitions of a rollout that is learnt from several times."""

    observations: Tensor
    """Of shape (M, ...), in the dtype of the environment."""
    actions_MX: Tensor
    log_policy_M: Tensor
    """log pi(a | s) of the policy that acted."""
    values_M: Tensor
    """V(s) when it acted."""
    advantages_M: Tensor
    returns_M: Tensor
    valid_M: Tensor


class ClippedLoss(nn.Module):
    """The loss of PPO, summed over the valid transitions. With q = pi(a | s) / pi_acted(a | s),

        policy  -min(q A, clip(q, 1 - c, 1 + c) A)
        value   (V(s) - R)^2, or with a clip the larger of it and (V_acted + clip(V(s) - V_acted, -v, v) - R)^2
        total   policy + value_weight * value - entropy_weight * entropy

    Source: Schulman et al. 2017 (arXiv 1707.06347), eq. 7 and 9; the clipped value is its published code's.
    """

    def __init__(self, network: nn.Module, distribution: Distribution, weights: ClippedWeights) -> None:
        super().__init__()
        self.network = network
        self.distribution = distribution
        self.weights = weights

    def forward(self, batch: ClippedMicrobatch) -> LossTerms:
        """The loss; per transition the metrics of `ActorCriticLoss`, and

        `train/clipped`, the share of ratios beyond the clip, and `train/kl`, the mean of q - 1 - log q, which estimates
        KL(pi_acted || pi) in nats (Schulman 2020, "Approximating KL divergence", k3).
        """
        weights, valid_M = self.weights, batch.valid_M
        outputs_MP, values_M = self.network(batch.observations)
        log_policy_M, entropy_M = self.distribution.evaluate(outputs_MP, batch.actions_MX)
        log_ratio_M = torch.where(valid_M, log_policy_M - batch.log_policy_M, 0.0)
        ratio_M = log_ratio_M.exp()
        limited_M = ratio_M.clamp(1 - weights.clip_ratio, 1 + weights.clip_ratio)
        advantages_M = torch.where(valid_M, batch.advantages_M, 0.0)
        policy = -torch.minimum(ratio_M * advantages_M, limited_M * advantages_M).sum()
        value = self._value_errors(torch.where(valid_M, values_M.to(ratio_M.dtype), 0.0), batch).sum()
        entropy = torch.where(valid_M, entropy_M, 0.0).sum()
        with torch.no_grad():
            divergence = (ratio_M - 1 - log_ratio_M).sum()
            clipped = ((ratio_M - 1).abs() > weights.clip_ratio).sum()
        count = valid_M.sum()
        metrics = {
            "train/policy_loss": Mean(policy.detach(), count),
            "train/value_loss": Mean(value.detach(), count),
            "train/entropy": Mean(entropy.detach(), count),
            "train/kl": Mean(divergence, count),
            "train/clipped": Mean(clipped, count),
        }
        return LossTerms(policy + weights.value_weight * value - weights.entropy_weight * entropy, count, metrics)

    def _value_errors(self, values_M: Tensor, batch: ClippedMicrobatch) -> Tensor:
        """0 where a row is no transition; `values_M` is 0 there."""
        # Chosen before any product: such a row may hold anything, and the gradient of 0 * nan is nan.
        returns_M = torch.where(batch.valid_M, batch.returns_M, 0.0)
        errors_M = (values_M - returns_M).square()
        if self.weights.clip_values is None:
            return errors_M
        acted_M = torch.where(batch.valid_M, batch.values_M, 0.0)
        change_M = (values_M - acted_M).clamp(-self.weights.clip_values, self.weights.clip_values)
        return torch.maximum(errors_M, (acted_M + change_M - returns_M).square())
