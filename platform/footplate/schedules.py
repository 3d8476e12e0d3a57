"""Learning-rate schedules: the factor by which each update multiplies the optimizer's `learning_rate`.

Update numbers n start at 1. A warm-up of w updates gives n / w to the updates up to w: the first one makes a w-th of a
step instead of none, the w-th a whole one. What follows is told in m = n - 1 - w, the updates that lie between the
warm-up and this one, so that the first of them is whole as well. U is the horizon: the schedule's own `updates`, or the
run's where that is None.

Every schedule but the plateau is a pure function of n and U: resumed anywhere, it goes on as if it had never stopped.

>>> from footplate.schedules import Linear
>>> [Linear(warmup_updates=2).at(n, updates=6) for n in range(1, 8)]
[0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from footplate.section import Count, Fraction, Section, WholeNumber

Shrinking = Annotated[float, Field(gt=0, le=1)]


class _Curve(Section, ABC):
    """A schedule: a function of the update's number and of the run's length."""

    kind: str

    @abstractmethod
    def at(self, update: int, updates: int) -> float:
        """The factor of update number `update` (from 1) in a run of `updates`."""


class _Warmed(_Curve, ABC):
    """A schedule that begins with a warm-up."""

    warmup_updates: WholeNumber = 0
    """How many updates the learning rate rises over, in a straight line; 0 starts at once."""

    def at(self, update: int, updates: int) -> float:
        """min(1, n / w), or what follows.

        Source of the warm-up: Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.2.
        """
        if update <= self.warmup_updates:
            return update / self.warmup_updates
        return self.after(update - 1 - self.warmup_updates, updates)

    @abstractmethod
    def after(self, done: int, updates: int) -> float:
        """The factor when `done` updates have been made since the warm-up, of a run of `updates` in all."""


class _Descending(_Warmed, ABC):
    """A schedule that reaches its end at a horizon."""

    updates: Count | None = None
    """The update at which the schedule ends; None: with the run."""

    def progress(self, done: int, updates: int) -> float:
        """The share of the way from the end of the warm-up to the horizon that is covered: m / (U - w), at most 1."""
        way = (self.updates or updates) - self.warmup_updates
        return min(1.0, done / way) if way > 0 else 1.0


class Constant(_Warmed):
    """1 for ever, after the warm-up."""

    kind: Literal["constant"] = "constant"

    def after(self, done: int, updates: int) -> float:
        return 1.0


class InverseSqrt(_Warmed):
    """min(n / w, sqrt(w / n)): `learning_rate` is the peak, reached at update w.

    Source: Vaswani et al. 2017, "Attention is all you need", eq. 3, whose peak is 1 / sqrt(d_model w).
    """

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    warmup_updates: Count = 4000
    """How many updates the learning rate rises over; also sets how fast it falls afterwards."""

    def after(self, done: int, updates: int) -> float:
        return math.sqrt(self.warmup_updates / (done + 1 + self.warmup_updates))


class Linear(_Descending):
    """1 - m / (U - w): down to 0 in a straight line, which the update after the last would reach.

    Source: Devlin et al. 2019, "BERT", appendix A.2, with the line drawn from the end of the warm-up.
    """

    kind: Literal["linear"] = "linear"

    def after(self, done: int, updates: int) -> float:
        return 1 - self.progress(done, updates)


class Cosine(_Descending):
    """floor + (1 - floor) (1 + cos(pi m / (U - w))) / 2.

    Source: Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", eq. 5, without restarts.
    """

    kind: Literal["cosine"] = "cosine"
    floor: Fraction = 0.0
    """Where it ends, as a share of the learning rate."""

    def after(self, done: int, updates: int) -> float:
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * self.progress(done, updates))) / 2


class Stepped(_Warmed):
    """factor ^ floor(m / every): a drop after every so many updates.

    Source: He et al. 2016, "Deep residual learning for image recognition", section 3.4.
    """

    kind: Literal["step"] = "step"
    every_updates: Count
    """How many updates lie between two drops."""
    factor: Shrinking = 0.1
    """What each drop multiplies the learning rate by."""

    def after(self, done: int, updates: int) -> float:
        return float(self.factor ** (done // self.every_updates))


class Exponential(_Warmed):
    """factor ^ (m / every): the same drops as `step`, spread evenly.

    Source: Bottou 2012, "Stochastic gradient descent tricks", section 2.2, speaks of why a rate must fall; this is its
    exponential form, as in Szegedy et al. 2016, section 8 (0.94 every two epochs).
    """

    kind: Literal["exponential"] = "exponential"
    every_updates: Count
    """Over how many updates the learning rate falls by `factor`."""
    factor: Shrinking = 0.94
    """What the learning rate is multiplied by over `every_updates`."""

    def after(self, done: int, updates: int) -> float:
        return float(self.factor ** (done / self.every_updates))


class OneCycle(_Curve):
    """Up from `start` to 1, down again in as many updates, then down to `end`: three straight lines over (n - 1) / U.

    It rises by itself, so there is no warm-up. Source: Smith 2018, "A disciplined approach to neural network
    hyper-parameters", section 4.1. Momentum, which the paper lowers while the rate is high, stays as it is.
    """

    kind: Literal["one_cycle"] = "one_cycle"
    updates: Count | None = None
    """The update at which the schedule ends; None: with the run."""
    cycle: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The share of the updates that rise and fall take together; the rest is the last descent."""
    start: Fraction = 0.1
    """Where the cycle starts and ends, as a share of the learning rate, which is its peak."""
    end: Fraction = 0.001
    """Where the last descent ends, as a share of the learning rate."""

    def at(self, update: int, updates: int) -> float:
        progress, half = min(1.0, (update - 1) / (self.updates or updates)), self.cycle / 2
        if progress <= self.cycle:
            return 1 - (1 - self.start) * abs(progress - half) / half
        return self.start + (self.end - self.start) * (progress - self.cycle) / (1 - self.cycle)


class Plateau(_Warmed):
    """A drop whenever evaluations stop getting better; the task feeds them through `Update.observe`.

    Source: Bahar et al. 2017, "Empirical investigation of optimization algorithms in neural machine translation",
    section 4; as a rule much older.
    """

    kind: Literal["plateau"] = "plateau"
    patience_evaluations: Count = 3
    """How many evaluations in a row may bring nothing better; the last of them makes the rate drop."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """What each drop multiplies the learning rate by."""
    minimum: Fraction = 0.0
    """Below this share of the learning rate it does not drop."""
    better: Literal["higher", "lower"] | None = None
    """Which value of what is observed is the better one; null is what suits it, as the task says, or else `higher`."""

    def after(self, done: int, updates: int) -> float:
        return 1.0


Schedule = Annotated[
    Constant | InverseSqrt | Linear | Cosine | Stepped | Exponential | Plateau | OneCycle, Field(discriminator="kind")
]


class Rate:
    """A schedule under way in a run of `updates`."""

    def __init__(self, curve: Schedule, updates: int) -> None:
        self._curve = curve
        self._updates = updates

    def factor(self, update: int) -> float:
        """What update number `update` (from 1) multiplies the learning rate by."""
        return self._curve.at(update, self._updates)

    def observe(self, value: float) -> None:
        """Take note of an evaluation; only a plateau listens."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load: the factor is a pure function of the update's number."""


class PlateauRate(Rate):
    """A plateau under way: it remembers the best value and how many evaluations ago it was.

    >>> rate = PlateauRate(Plateau(patience_evaluations=2, better="lower"), updates=100)
    >>> for loss in [3.0, 2.0, 2.5, 2.0]:
    ...     rate.observe(loss)
    >>> rate.factor(50)
    0.5
    """

    def __init__(self, curve: Plateau, updates: int) -> None:
        super().__init__(curve, updates)
        self._plateau = curve
        self._best: float | None = None
        self._evaluations_since = 0
        self._drops = 1.0

    def factor(self, update: int) -> float:
        return super().factor(update) * self._drops

    def observe(self, value: float) -> None:
        """Count the evaluation; a value that is not finite is never better."""
        sign = -1 if self._plateau.better == "lower" else 1
        if math.isfinite(value) and (self._best is None or sign * value > sign * self._best):
            self._best = value
            self._evaluations_since = 0
            return
        self._evaluations_since += 1
        if self._evaluations_since == self._plateau.patience_evaluations:
            self._evaluations_since = 0
            self._drops = min(self._drops, max(self._drops * self._plateau.factor, self._plateau.minimum))

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "evaluations_since": self._evaluations_since, "drops": self._drops}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._best = state["best"]
        self._evaluations_since = state["evaluations_since"]
        self._drops = state["drops"]


def build_schedule(config: Schedule, updates: int) -> Rate:
    """The schedule under way in a run of `updates` updates."""
    return PlateauRate(config, updates) if isinstance(config, Plateau) else Rate(config, updates)
