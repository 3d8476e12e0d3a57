"""Returns: what the value function is trained towards, computed backwards through a rollout.

Axes: T rollout step, S rollout step with one more at the end (S = T + 1), N environment.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, where, zeros_like

from footplate.section import Fraction, Section


class NStep(Section):
    """All rewards of the rollout, and the value behind its last step."""

    kind: Literal["n_step"] = "n_step"


class GAE(Section):
    """Generalised advantage estimation: returns of every length, mixed; 1 is the longest (n_step), 0 a single step."""

    kind: Literal["gae"] = "gae"
    trace: Fraction = 0.95
    """How much of the weight goes on to the longer returns, lambda."""


Returns = Annotated[NStep | GAE, Field(discriminator="kind")]


def n_step_returns(
    rewards_TN: Tensor,
    ended_TN: Tensor,
    truncated_TN: Tensor,
    valid_TN: Tensor,
    values_SN: Tensor,
    final_values_TN: Tensor,
    discount: float,
) -> Tensor:
    """The returns R_TN that look as far ahead as the rollout and the episode allow.

        R_t = r_t                       where the return ended at t: a terminal state, or what counts as one
        R_t = r_t + discount V(final)   where the episode was truncated at t
        R_t = r_t + discount R_{t+1}    elsewhere, and R_T = V(s_T)

    Rows t = 0 ... T-1 are transitions from the observation s_t; `values_SN` holds V(s_t) for t = 0 ... T, so that its
    last row is the bootstrap; only that row and those of invalid transitions are read. `final_values_TN` is the value
    of the last observation of a truncated episode, anything elsewhere. Where a step is
    both ended and truncated, it ended.

    An invalid row is no transition: its reward is ignored and its R_t is V(s_t), so that a window that reaches it stops
    there and bootstraps. The caller leaves it out of the loss.

    Source: Mnih et al. 2016 (arXiv 1602.01783), algorithm S3; Clemente et al. 2017 (arXiv 1705.04862), algorithm 1.

    >>> import torch
    >>> one_TN, no_TN = torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.bool)
    >>> n_step_returns(one_TN, no_TN, no_TN, ~no_TN, torch.full((4, 1), 8.0), one_TN, 0.5).flatten().tolist()
    [2.75, 3.5, 5.0]
    """
    returns_TN = zeros_like(values_SN[:-1])
    following_N = values_SN[-1]
    for t in reversed(range(len(rewards_TN))):
        following_N = where(truncated_TN[t], final_values_TN[t], following_N)
        # Not a product with (1 - ended): an infinite or undefined value behind an end must not get through.
        following_N = where(ended_TN[t], 0.0, following_N)
        following_N = where(valid_TN[t], rewards_TN[t] + discount * following_N, values_SN[t])
        returns_TN[t] = following_N
    return returns_TN


def generalised_advantages(
    rewards_TN: Tensor,
    ended_TN: Tensor,
    truncated_TN: Tensor,
    valid_TN: Tensor,
    values_SN: Tensor,
    final_values_TN: Tensor,
    discount: float,
    trace: float,
) -> Tensor:
    """The advantages A_TN of generalised advantage estimation.

        d_t = r_t - V(s_t)                       where the return ended at t
        d_t = r_t + discount V(final) - V(s_t)   where the episode was truncated at t
        d_t = r_t + discount V(s_{t+1}) - V(s_t) elsewhere
        A_t = d_t + discount trace A_{t+1}, where A_{t+1} is 0 behind an end, a truncation, and the rollout's last step

    The arguments are those of `n_step_returns`, but that all of `values_SN` is read. An invalid row has an advantage of
    0. A_t + V(s_t) is the lambda-return; with a trace of 1 it is the n-step return.

    Source: Schulman et al. 2016 (arXiv 1506.02438), eq. 16; Schulman et al. 2017 (arXiv 1707.06347), eq. 11-12.

    >>> import torch
    >>> one_TN, no_TN = torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.bool)
    >>> generalised_advantages(one_TN, no_TN, no_TN, ~no_TN, torch.full((3, 1), 4.0), one_TN, 0.5, 0.5).tolist()
    [[-1.25], [-1.0]]
    """
    advantages_TN = zeros_like(values_SN[:-1])
    following_N = zeros_like(values_SN[-1])
    for t in reversed(range(len(rewards_TN))):
        next_values_N = where(truncated_TN[t], final_values_TN[t], values_SN[t + 1])
        next_values_N = where(ended_TN[t], 0.0, next_values_N)
        following_N = where(ended_TN[t] | truncated_TN[t], 0.0, following_N)
        errors_N = rewards_TN[t] + discount * next_values_N - values_SN[t]
        following_N = where(valid_TN[t], errors_N + discount * trace * following_N, 0.0)
        advantages_TN[t] = following_N
    return advantages_TN
