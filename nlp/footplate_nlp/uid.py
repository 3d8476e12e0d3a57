"""Uniform information density: a search that also asks how evenly an output's surprisal is spread.

The search maximises log p(y) - lambda R(u), u_t = -log p(y_t | y_<t, source), t = 1 .. n with the end of sentence, and
u_0 = 0. (The length penalty then divides all of it.)
Source: Meister, Cotterell & Vieira 2020, "If beam search is the answer, what was the question?", sections 4 and 5.

Axes: N rows of hypotheses, T target positions so far, V vocabulary.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from footplate.section import Section

Regularizer = Literal["greedy", "variance", "local_variance", "max", "squares"]


class Uid(Section):
    """A regulariser R of the surprisals u (natural logarithm), and its weight."""

    regularizer: Regularizer
    """`greedy`: sum (u_t - min_v u_t(v))^2; `variance`: 1/n sum (u_t - mean)^2; `local_variance`:
    1/n sum (u_t - u_(t-1))^2; `max`: max u_t; `squares`: sum u_t^2."""
    strength: Annotated[float, Field(ge=0, le=1e6)]
    """lambda: 0 is plain beam search. At most 1000000: in fp32 an objective must stay finite."""

    @property
    def only_grows(self) -> bool:
        """Whether R never falls as an output grows, so that log p - lambda R never rises.

        `greedy` and `squares` add a square at each position, and a maximum over more is no less. A mean may fall.
        """
        return self.regularizer not in {"variance", "local_variance"}


def regularised(uid: Uid, sums_N: Tensor, past_NT: Tensor, choice_NV: Tensor, next_NV: Tensor) -> Tensor:
    """objective_NV: sums_N + choice_NV - lambda R, for each row and each token that may come next.

    `choice_NV` are the log-probabilities that count, `next_NV` the surprisals and `past_NT` those so far; for `greedy`
    both are above the least surprisal of their position. What is impossible (-inf) stays so.

    >>> sums_N, past_NT = torch.tensor([-3.0]), torch.tensor([[1.0, 2.0]])
    >>> uid = Uid(regularizer="variance", strength=1.0)
    >>> log_p_NV = torch.tensor([[-3.0, -0.5]])
    >>> regularised(uid, sums_N, past_NT, log_p_NV, -log_p_NV)  # the variance of 1, 2, 3 is 2/3
    tensor([[-6.6667, -3.8889]])
    """
    sums_NV = sums_N[:, None] + choice_NV
    # Elsewhere R may be the difference of two infinities.
    return torch.where(sums_NV > -torch.inf, sums_NV - uid.strength * unevenness(uid, past_NT, next_NV), -torch.inf)


def unevenness(uid: Uid, past_NT: Tensor, next_NV: Tensor) -> Tensor:
    """R_NV of past surprisals and each next one.

    The variance after n values is (M + (u - m)^2 (n - 1) / n) / n, with the mean m of those before and M their sum of
    squared distances to it (Welford 1962): no difference of large numbers.
    """
    n = past_NT.shape[1] + 1
    match uid.regularizer:
        case "greedy" | "squares":
            return (past_NT**2).sum(1, keepdim=True) + next_NV**2
        case "max":
            return next_NV.clamp(min=past_NT.amax(1, keepdim=True)) if n > 1 else next_NV
        case "local_variance":
            steps_NT = torch.diff(past_NT, dim=1, prepend=past_NT.new_zeros(len(past_NT), 1))
            last_N1 = past_NT[:, -1:] if n > 1 else past_NT.new_zeros(len(past_NT), 1)
            return ((steps_NT**2).sum(1, keepdim=True) + (next_NV - last_N1) ** 2) / n
        case "variance":
            mean_N1 = past_NT.sum(1, keepdim=True) / max(n - 1, 1)
            squares_N1 = ((past_NT - mean_N1) ** 2).sum(1, keepdim=True)
            return (squares_N1 + (next_NV - mean_N1) ** 2 * ((n - 1) / n)) / n
