"""The distribution of actions that a network's outputs describe: how to draw from it, and how likely an action is.

Axes: N environment, M transition, A action (or axis of a continuous one), P number that a network puts out for a
policy, X all axes of a uniform number or of an action: none where actions are discrete.
"""

from math import log, pi, prod
from typing import Protocol

import torch
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor
from torch.nn import functional as F

from footplate.errors import FootplateError
from footplate.job import Job


class Sampler(Protocol):
    """How actions are chosen by a network's outputs."""

    outputs: int
    """P."""
    shape: tuple[int, ...]
    """X of one action, and of the uniform numbers that draw it."""
    dtype: torch.dtype | None
    """What actions are stored as; None: as the network reckons."""

    def sample(self, outputs_NP: Tensor, uniforms_NX: Tensor) -> Tensor:
        """One action a row, by inverting the distribution function at uniform numbers in [0, 1).

        The numbers are a row's own, so that an environment's actions don't depend on which others share its batch.
        """

    def likeliest(self, outputs_NP: Tensor) -> Tensor:
        """The likeliest action of each row, or the best."""


class Distribution(Sampler, Protocol):
    """A family of distributions with a gradient; which of them is meant is in a network's outputs."""

    def evaluate(self, outputs_MP: Tensor, actions_MX: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(a | s) of each action (a density where it is continuous), and the entropy in nats of each row."""


def require_float64(job: Job) -> None:
    """Raise ValueError where actions would be drawn on a device without float64."""
    if job.device == "mps":
        raise ValueError("device: mps has no float64, in which actions are drawn; use cpu or cuda")


def sample_actions(logits_NA: Tensor, uniforms_N: Tensor) -> Tensor:
    """One action a row from softmax(logits), by inverting its distribution function at uniform numbers in [0, 1).

    >>> logits_NA = torch.log(torch.tensor([[0.2, 0.5, 0.3]])).repeat(4, 1)
    >>> sample_actions(logits_NA, torch.tensor([0.0, 0.19, 0.69, 0.71])).tolist()
    [0, 0, 1, 2]
    """
    cumulative_NA = torch.softmax(logits_NA.double(), dim=-1).cumsum(dim=-1)
    # The last sum may round to less than 1: scaling by it keeps the index below A.
    thresholds_N1 = (uniforms_N.double() * cumulative_NA[:, -1]).unsqueeze(1)
    return (cumulative_NA[:, :-1] <= thresholds_N1).sum(dim=-1)


class Categorical:
    """One of A actions, from logits_NA."""

    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = torch.int64

    def __init__(self, actions: int) -> None:
        self.outputs = actions

    def sample(self, outputs_NP: Tensor, uniforms_NX: Tensor) -> Tensor:
        return sample_actions(outputs_NP, uniforms_NX)

    def likeliest(self, outputs_NP: Tensor) -> Tensor:
        return outputs_NP.argmax(dim=-1)

    def evaluate(self, outputs_MP: Tensor, actions_MX: Tensor) -> tuple[Tensor, Tensor]:
        log_policy_MA = F.log_softmax(_in_full(outputs_MP), dim=-1)
        log_chosen_M = log_policy_MA.gather(1, actions_MX.unsqueeze(1)).squeeze(1)
        return log_chosen_M, -(log_policy_MA.exp() * log_policy_MA).sum(-1)


class Gaussian:
    """An independent normal distribution on each axis; outputs are the means, then the logarithms of the deviations.

    It knows no bounds: an action beyond them is clipped on its way to the environment, and learnt from as it was drawn.
    Source: Schulman et al. 2017 (arXiv 1707.06347), section 6.1.
    """

    dtype: torch.dtype | None = None

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.outputs = 2 * prod(shape)

    def sample(self, outputs_NP: Tensor, uniforms_NX: Tensor) -> Tensor:
        mean_NA, log_deviation_NA = outputs_NP.chunk(2, dim=-1)
        # 0 can be drawn, and its quantile is infinite.
        normal_NA = torch.special.ndtri(uniforms_NX.double().clamp(min=2.0**-54)).flatten(1).to(mean_NA.dtype)
        actions_NA: Tensor = mean_NA + log_deviation_NA.exp() * normal_NA
        return actions_NA.reshape(-1, *self.shape)

    def likeliest(self, outputs_NP: Tensor) -> Tensor:
        return outputs_NP.chunk(2, dim=-1)[0].reshape(-1, *self.shape)

    def evaluate(self, outputs_MP: Tensor, actions_MX: Tensor) -> tuple[Tensor, Tensor]:
        mean_MA, log_deviation_MA = _in_full(outputs_MP).chunk(2, dim=-1)
        distance_MA = (actions_MX.flatten(1) - mean_MA) / log_deviation_MA.exp()
        log_density_MA = -0.5 * distance_MA.square() - log_deviation_MA - 0.5 * log(2 * pi)
        return log_density_MA.sum(-1), (log_deviation_MA + 0.5 * (1 + log(2 * pi))).sum(-1)


def distribution_of(actions: Space[object]) -> Categorical | Gaussian:
    """The distribution of a policy over these actions. Raises FootplateError where there is none."""
    if isinstance(actions, Discrete):
        return Categorical(int(actions.n))
    if isinstance(actions, Box) and actions.dtype is not None and actions.dtype.kind == "f" and actions.shape:
        return Gaussian(actions.shape)
    raise FootplateError(
        f"network: actions are {actions}; use an environment whose actions are Discrete, or a Box of real numbers"
    )


def _in_full(outputs_MP: Tensor) -> Tensor:
    """Not in half precision."""
    return outputs_MP if outputs_MP.dtype == torch.float64 else outputs_MP.float()
