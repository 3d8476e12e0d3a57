"""Exploration by chance: how often an actor takes a random action, and how that rate is drawn.

Axes: N environment, A action.
"""

from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from footplate.section import Count, Fraction, NonNegative, Probability, Section, WholeNumber


class _Resampled(Section):
    """A rate that each actor draws anew from time to time; until `anneal_updates` it falls to what was drawn."""

    kind: str
    resample_every_updates: Count = 1_000
    """After how many updates of all workers together each actor draws anew."""
    anneal_updates: WholeNumber = 200_000
    """Over how many updates the rate falls, in a straight line, from 1 to what was drawn; 0: at once."""

    def at(self, update: int, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rates in this update, for what was drawn: 1 + (drawn - 1) min(1, update / anneal_updates)."""
        progress = min(1.0, update / self.anneal_updates) if self.anneal_updates else 1.0
        return 1 + (drawn - 1) * progress


class Choice(_Resampled):
    """One of some rates, each with its probability.

    Source: Mnih et al. 2016 (arXiv 1602.01783), section 5.1: 0.1, 0.01, 0.5 with probabilities 0.4, 0.3, 0.3, over the
    first four million frames.
    """

    kind: Literal["choice"] = "choice"
    rates: tuple[Fraction, ...] = (0.1, 0.01, 0.5)
    """What can be drawn."""
    probabilities: tuple[Fraction, ...] = (0.4, 0.3, 0.3)
    """How likely each of them is; together 1."""

    @model_validator(mode="after")
    def _are_probabilities(self) -> "Choice":
        if len(self.rates) != len(self.probabilities) or abs(sum(self.probabilities) - 1) > 1e-6:
            raise ValueError(
                f"probabilities: {len(self.probabilities)} that add up to {sum(self.probabilities):g}, for "
                f"{len(self.rates)} rates; give one for each, together 1"
            )
        return self

    def draw(self, uniforms_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """A rate for each uniform number in [0, 1).

        >>> Choice().draw(np.array([0.39, 0.41, 0.99])).tolist()
        [0.1, 0.01, 0.5]
        """
        edges = np.cumsum(self.probabilities)[:-1]
        rates_N: NDArray[np.float64] = np.array(self.rates)[np.searchsorted(edges, uniforms_N, side="right")]
        return rates_N


class Uniform(_Resampled):
    """Any rate between two bounds, each as likely."""

    kind: Literal["uniform"]
    low: Fraction = 0.01
    """The least that can be drawn."""
    high: Fraction = 0.5
    """The most."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "Uniform":
        if self.low > self.high:
            raise ValueError(f"low: {self.low:g} is above high: {self.high:g}; exchange them")
        return self

    def draw(self, uniforms_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """A rate for each uniform number in [0, 1)."""
        return self.low + (self.high - self.low) * uniforms_N


Exploration = Annotated[Choice | Uniform, Field(discriminator="kind")]


class Ladder(Section):
    """A rate for each player, from often to next to never: epsilon^(1 + alpha i / (N - 1)) for i = 0 to N - 1.

    Source: Horgan et al. 2018 (arXiv 1803.00933), section 4.1.
    """

    epsilon: Probability = 0.4
    """The rate of the first player."""
    alpha: NonNegative = 7.0
    """How much rarer the last one explores: it has the rate epsilon^(1 + alpha)."""

    def rates(self, players: int) -> NDArray[np.float64]:
        """The rates of so many players.

        >>> Ladder(epsilon=0.5, alpha=2.0).rates(3).tolist()
        [0.5, 0.25, 0.125]
        """
        powers_N: NDArray[np.float64] = 1 + self.alpha * np.arange(players) / max(1, players - 1)
        return self.epsilon**powers_N


class EpsilonGreedy:
    """`Sampler` of actions by their values: with probability epsilon any action, else the best one."""

    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = torch.int64

    def __init__(self, actions: int, epsilon_N: NDArray[np.float64] | float) -> None:
        """`epsilon_N` is each environment's rate, or one for all."""
        self.outputs = actions
        self.epsilon_N = epsilon_N

    def sample(self, outputs_NP: Tensor, uniforms_NX: Tensor) -> Tensor:
        """Where a uniform number is below epsilon, what is left of it chooses the action."""
        epsilon_N = torch.as_tensor(self.epsilon_N, dtype=torch.float64, device=uniforms_NX.device)
        share_N = uniforms_NX.double() / epsilon_N.clamp(min=1e-12)
        any_N = (share_N * self.outputs).long().clamp(max=self.outputs - 1)
        return torch.where(uniforms_NX < epsilon_N, any_N, self.likeliest(outputs_NP))

    def likeliest(self, outputs_NP: Tensor) -> Tensor:
        return outputs_NP.argmax(dim=-1)
