"""Q-learning: what values are trained towards, and by which loss.

Axes: B window of a batch, M window of a microbatch, A action, O all axes of one observation.
"""

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from footplate.section import Count, Section
from footplate.step import Mean
from footplate.update import LossTerms


class HardTarget(Section):
    """The target network becomes the network each so many updates (Mnih et al. 2015)."""

    kind: Literal["hard"] = "hard"
    every_updates: Count = 10_000
    """How many updates a target network stands still."""

    def follow(self, target: nn.Module, network: nn.Module, update: int) -> None:
        """Change the target after this update."""
        if update % self.every_updates == 0:
            target.load_state_dict(network.state_dict())


class SoftTarget(Section):
    """The target network comes a little nearer after every update (Lillicrap et al. 2015, arXiv 1509.02971)."""

    kind: Literal["soft"]
    rate: Annotated[float, Field(gt=0, le=1)] = 0.005
    """target <- target + rate (network - target)."""

    def follow(self, target: nn.Module, network: nn.Module, update: int) -> None:
        """Change the target after this update."""
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), self.rate)


Target = Annotated[HardTarget | SoftTarget, Field(discriminator="kind")]


@torch.no_grad()
def bootstrap_values(next_observations_BO: Tensor, target: nn.Module, network: nn.Module | None) -> Tensor:
    """What the next observations are worth to a greedy policy, values_B.

        max_a Q_target(s, a)                        where `network` is None
        Q_target(s, argmax_a Q_network(s, a))       double: one network chooses, the other one judges

    Source: van Hasselt et al. 2016, "Deep reinforcement learning with double Q-learning" (arXiv 1509.06461), eq. 4.
    """
    values_BA, best_B = target(next_observations_BO)
    if network is None:
        return best_B  # type: ignore[no-any-return]
    chosen_B1 = network(next_observations_BO)[0].argmax(dim=1, keepdim=True)
    return values_BA.gather(1, chosen_B1).squeeze(1)  # type: ignore[no-any-return]


def n_step_targets(returns_B: Tensor, bootstraps_B: Tensor, values_B: Tensor) -> Tensor:
    """return + bootstrap * value; where nothing is bootstrapped the value is not looked at.

    >>> n_step_targets(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]), torch.tensor([8.0, float("nan")])).tolist()
    [5.0, 2.0]
    """
    return returns_B + torch.where(bootstraps_B > 0, bootstraps_B * values_B, 0.0)


class Lessons(NamedTuple):
    """One microbatch of a learner of Q."""

    observations: Tensor
    """Of shape (M, ...), in the dtype of the environment."""
    actions_M: Tensor
    targets_M: Tensor
    weights_M: Tensor


class ReplayLoss(nn.Module):
    """The sum over the microbatch of weight * huber(target - Q(s, a)).

    huber(x) = x^2 / 2 within +- `huber`, and grows linearly beyond; without one it is x^2 / 2 everywhere. The count is
    the number of windows, so the weights of a prioritised replay make steps smaller and never larger.
    """

    def __init__(self, network: nn.Module, huber: float | None) -> None:
        super().__init__()
        self.network = network
        self._huber = huber
        self.errors: list[Tensor] = []
        """target - Q(s, a) of each microbatch since this was emptied: the priorities to be."""

    def forward(self, lessons: Lessons) -> LossTerms:
        """The loss; `train/q_value`, the mean Q(s, a) of the batch, and `train/td_error`, its mean |delta|."""
        values_MA, _ = self.network(lessons.observations)
        values_M = values_MA.gather(1, lessons.actions_M.unsqueeze(1)).squeeze(1).to(lessons.targets_M.dtype)
        if self._huber is None:
            losses_M = F.mse_loss(values_M, lessons.targets_M, reduction="none") / 2
        else:
            losses_M = F.huber_loss(values_M, lessons.targets_M, reduction="none", delta=self._huber)
        errors_M = (lessons.targets_M - values_M).detach()
        self.errors.append(errors_M)
        metrics = {
            "train/q_value": Mean(values_M.detach().sum(), len(values_M)),
            "train/td_error": Mean(errors_M.abs().sum(), len(errors_M)),
        }
        return LossTerms((lessons.weights_M * losses_M).sum(), len(losses_M), metrics)
