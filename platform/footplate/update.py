"""`Update`: what turns the microbatches of one update into one step of the optimizer.

The result does not depend on how an update's batch is cut into microbatches and ranks: losses are sums, their gradients
are added up over all pieces, and only then divided by what was counted over all of them.

Axes: M the sums that are added up over microbatches and ranks.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from footplate.context import Context
from footplate.errors import TrainingError
from footplate.optimizers import Optimizer, build_optimizer
from footplate.schedules import Schedule, build_schedule
from footplate.section import Count, Positive, Section
from footplate.step import Latest, Mean, Metric

# Losses are sums: over some thousand tokens, 16 times the sum is 65,536 times the mean, where torch starts.
_FIRST_LOSS_SCALE = 16.0
# Here the sum over 8,192 tokens has shrunk to their mean: what still overflows does so without any scale.
_LEAST_LOSS_SCALE = 2.0**-13


class LossTerms(NamedTuple):
    """What a loss module's forward returns for one microbatch."""

    total: Tensor
    """The sum, not the mean, over what counts: a scalar with a gradient, also where nothing counts (then zero)."""
    count: Tensor | float  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    """How much was counted: tokens, transitions; 0 for a microbatch that is all padding."""
    metrics: Mapping[str, Mean]
    """Further metrics, without gradients; the same names for every microbatch on every rank."""


class UpdateConfig(Section):
    """How gradients become an update."""

    accumulate: Count = 1
    """Into how many microbatches each rank's share of an update is cut: less memory, the same result."""
    clip_norm: Positive | None = None
    """The largest L2 norm that the gradient of all parameters together may have; a longer one is scaled down to it."""
    clip_value: Positive | None = None
    """The largest magnitude that an element of the gradient may have, after `clip_norm`; a larger one is cut."""
    stop_after_non_finite: Count = 10
    """An update whose gradient is infinite or not a number is skipped; so many in a row end the training."""


class Update:
    """One optimizer update for each call, equal on all ranks.

    gradient = sum of the gradients of `total` / sum of `count`, both over all microbatches of all ranks. It is clipped
    (Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", algorithm 1), and the optimizer
    steps with it at the learning rate of the schedule. An update whose gradient is not finite, or that counted nothing,
    leaves weights and optimizer as they are, yet has its number.

    With several ranks the loss module is wrapped in DistributedDataParallel at the first call, so every parameter that
    requires a gradient must get one from every microbatch, even from one that counts nothing. Forward must keep no
    state but in buffers: the first call runs it once more than there are microbatches.
    """

    number: int
    """How many updates have been made."""

    def __init__(
        self,
        loss: nn.Module,
        optimizer: Optimizer,
        schedule: Schedule,
        config: UpdateConfig,
        context: Context,
        updates: int,
        unit: str = "update",
    ) -> None:
        """`loss` returns `LossTerms` for a microbatch and lies on its device; `updates` is how many the run makes.

        `unit` is what errors call one of them.
        """
        self.number = 0
        self._unit = unit
        self._loss = loss
        self._parameters = list(loss.named_parameters())
        self._forward: nn.Module | None = loss if context.ranks == 1 else None
        self._learning_rate = optimizer.learning_rate
        self._optimizer = build_optimizer(optimizer, loss)
        self._rate = build_schedule(schedule, updates)
        self._config = config
        self._context = context
        self._scaler = _loss_scaler(context)
        self._skipped = 0
        self._non_finite_in_a_row = 0

    def __call__(self, microbatches: Sequence[object]) -> dict[str, Metric]:
        """Make an update from this rank's microbatches.

        Returns `train/loss` and the loss module's metrics (over all ranks), `train/grad_norm` (L2, before clipping),
        `train/learning_rate` and `train/skipped_updates` (how many so far were not finite). Raises TrainingError when
        too many of those came in a row.
        """
        if not microbatches:
            raise ValueError("an update needs a microbatch on every rank; one that counts nothing can stand for none")
        if self._forward is None:
            self._forward = self._data_parallel(microbatches[0])
        self.number += 1
        self._context.seed_torch("update", self._context.rank, self.number)
        self._optimizer.zero_grad(set_to_none=True)
        names, sums_M = self._accumulate(self._forward, microbatches)
        norm, loss, count, *others = self._measure(sums_M)
        # DistributedDataParallel has divided by the ranks, and what is wanted is the sum over them.
        share = self._context.ranks / count if count > 0 else 0.0
        norm = norm * share if count > 0 else 0.0
        learning_rate = self._learning_rate * self._rate.factor(self.number)
        scale_fell = self._adapt_loss_scale(overflowed=not math.isfinite(norm))
        if not math.isfinite(norm):
            self._skip(counts=not scale_fell)
        elif count > 0:
            self._step(share, norm, learning_rate)
        totals, counts = others[::2], others[1::2]
        return {
            "train/loss": Mean(loss, count),
            "train/grad_norm": norm,
            "train/learning_rate": learning_rate,
            "train/skipped_updates": Latest(float(self._skipped)),
            **{name: Mean(*mean) for name, *mean in zip(names, totals, counts, strict=True)},
        }

    def skip_to(self, number: int) -> None:
        """Leave out the updates up to this number: schedule and random streams go on behind it."""
        self.number = number

    def observe(self, metric_value: float) -> None:
        """Tell a plateau schedule the result of an evaluation; the others do not listen."""
        self._rate.observe(metric_value)

    def state_dict(self) -> dict[str, Any]:
        """All but the weights: plain containers, numbers and tensors."""
        return {
            "number": self.number,
            "skipped": self._skipped,
            "non_finite_in_a_row": self._non_finite_in_a_row,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._rate.state_dict(),
            "scaler": {} if self._scaler is None else self._scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where the state was taken; the optimizer's settings remain those of the configuration."""
        self.number = state["number"]
        self._skipped = state["skipped"]
        self._non_finite_in_a_row = state["non_finite_in_a_row"]
        groups = self._optimizer.param_groups
        settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        self._optimizer.load_state_dict(state["optimizer"])
        for group, setting in zip(self._optimizer.param_groups, settings, strict=True):
            group.update(setting)
        self._rate.load_state_dict(state["schedule"])
        if self._scaler is not None and state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])

    def _data_parallel(self, microbatch: object) -> nn.Module:
        """The loss module wrapped for several ranks, with its buckets in their final order.

        DistributedDataParallel sorts its buckets anew after the first backward pass of a process, and a sum over three
        ranks or more depends on where in its bucket a gradient lies: without this rehearsal, the first update after
        a resumption would differ in its last bits from the same update of an uninterrupted run.
        """
        forward = DistributedDataParallel(self._loss, gradient_as_bucket_view=True)
        buffers = [(buffer, buffer.clone()) for buffer in self._loss.buffers()]
        with self._context.autocast():
            terms: LossTerms = forward(microbatch)
        terms.total.backward()  # type: ignore[no-untyped-call]
        self._optimizer.zero_grad(set_to_none=True)
        for buffer, before in buffers:
            buffer.copy_(before)
        return forward

    def _accumulate(self, forward: nn.Module, microbatches: Sequence[object]) -> tuple[list[str], Tensor]:
        """Leave the sum of the gradients in the parameters; return the metrics' names and the sums of the rows."""
        names: list[str] = []
        rows: list[Tensor] = []
        for index, microbatch in enumerate(microbatches):
            waits = isinstance(forward, DistributedDataParallel) and index < len(microbatches) - 1
            with forward.no_sync() if waits else nullcontext():  # type: ignore[operator]
                with self._context.autocast():
                    terms: LossTerms = forward(microbatch)
                total = terms.total if self._scaler is None else self._scaler.scale(terms.total)
                total.backward()  # type: ignore[no-untyped-call]
            if rows and list(terms.metrics) != names:
                raise ValueError(f"the metrics of one microbatch are {names}, of the next {list(terms.metrics)}")
            names = list(terms.metrics)
            rows.append(_row(terms))
        return names, torch.stack(rows).sum(0)

    def _measure(self, sums_M: Tensor) -> list[float]:
        """The norm of the gradient and the sums over all ranks, read from the device at once."""
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        sums_M = self._context.sum(sums_M)
        norms = torch._foreach_norm(self._gradients())
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else sums_M.new_zeros(())
        numbers: list[float] = torch.cat([norm.to(sums_M).reshape(1), sums_M]).tolist()
        return numbers

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for _, parameter in self._parameters if parameter.grad is not None]

    def _adapt_loss_scale(self, *, overflowed: bool) -> bool:
        """Whether the loss scale of fp16 fell, from where it was still to blame for an overflow."""
        if self._scaler is None:
            return False
        before = self._scaler.get_scale() if overflowed else 0.0
        self._scaler.update()
        return overflowed and before > _LEAST_LOSS_SCALE and self._scaler.get_scale() < before

    def _step(self, share: float, norm: float, learning_rate: float) -> None:
        self._non_finite_in_a_row = 0
        gradients = self._gradients()
        if self._config.clip_norm is not None and norm > self._config.clip_norm:
            share *= self._config.clip_norm / norm
        if share != 1:
            torch._foreach_mul_(gradients, share)
        if self._config.clip_value is not None:
            torch._foreach_clamp_min_(gradients, -self._config.clip_value)
            torch._foreach_clamp_max_(gradients, self._config.clip_value)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()

    def _skip(self, *, counts: bool) -> None:
        self._skipped += 1
        self._non_finite_in_a_row += counts
        if self._non_finite_in_a_row < self._config.stop_after_non_finite:
            return
        # An element above 1e19 has an infinite norm in float32; it counts as not finite here as it did in `_measure`.
        named = ((name, parameter.grad) for name, parameter in self._parameters)
        bad = (name for name, gradient in named if gradient is not None and not math.isfinite(gradient.norm()))
        times = f"{self._non_finite_in_a_row} time{'s' * (self._non_finite_in_a_row > 1)}"
        raise TrainingError(
            f"{self._unit} {self.number}: gradient of {next(bad, 'all parameters together')}: not finite {times} in a "
            "row; lower optimizer.learning_rate or set update.clip_norm"
        )


def _loss_scaler(context: Context) -> torch.amp.GradScaler | None:
    if context.precision != "fp16":
        return None
    return torch.amp.GradScaler(context.device.type, init_scale=_FIRST_LOSS_SCALE)


@torch.no_grad()
def _row(terms: LossTerms) -> Tensor:
    """Total, count, and total and count of each metric: in float64 where the device has it."""
    device = terms.total.device
    real = torch.float32 if device.type == "mps" else torch.float64
    values = [terms.total, terms.count, *(value for mean in terms.metrics.values() for value in mean)]
    return torch.stack([torch.as_tensor(value, dtype=real, device=device) for value in values])
