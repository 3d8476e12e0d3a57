"""What one optimizer update does on one rank; `test_update_ranks.py` has several."""

import io
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from footplate.context import Context
from footplate.errors import TrainingError
from footplate.optimizers import Adadelta, Adam, AdamW, Optimizer, RAdam, RmsProp, Sgd
from footplate.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    OneCycle,
    Plateau,
    Schedule,
    Stepped,
)
from footplate.step import Latest, Mean, metric_value
from footplate.update import LossTerms, Update, UpdateConfig

OPTIMIZERS: list[Optimizer] = [
    Sgd(),
    Sgd(momentum=0.9, nesterov=True, weight_decay=0.01),
    Adadelta(),
    RmsProp(epsilon=0.1, epsilon_inside_root=True, momentum=0.5),
    Adam(weight_decay=0.01),
    AdamW(),
    RAdam(),
]
SCHEDULES: list[Schedule] = [
    Constant(),
    InverseSqrt(warmup_updates=4),
    Linear(),
    Cosine(),
    Stepped(every_updates=3),
    Exponential(every_updates=3),
    Plateau(patience_evaluations=1),
    OneCycle(),
]


class Products(nn.Module):
    """total = sum of weight . row over the rows that count: the gradient is the sum of these rows."""

    def __init__(self, weights: Sequence[float] = (0.0, 0.0)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weights, dtype=torch.float64))

    def forward(self, rows: Tensor) -> LossTerms:
        total = (rows.to(self.weight.dtype) @ self.weight).sum()
        return LossTerms(total, float(len(rows)), {"train/rows": Mean(float(len(rows)), 1.0)})


class Regression(nn.Module):
    """Squared error of a small network with dropout and normalisation; rows of NaN targets do not count."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = [nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(dropout)]
        self.network = nn.Sequential(*hidden, nn.Linear(16, 1))

    def forward(self, batch: tuple[Tensor, Tensor]) -> LossTerms:
        features, targets = batch
        counts = ~targets.isnan()
        errors = (self.network(features).squeeze(-1) - targets.nan_to_num()).square() * counts
        return LossTerms(errors.sum(), counts.sum(), {"train/error": Mean(errors.detach().max(), 1.0)})


def make_update(
    loss: nn.Module,
    optimizer: Optimizer | None = None,
    schedule: Schedule | None = None,
    context: Context | None = None,
    **config: Any,
) -> Update:
    optimizer, schedule = optimizer or Sgd(learning_rate=1.0), schedule or Constant()
    return Update(loss, optimizer, schedule, UpdateConfig(**config), context or Context(), updates=20)


def regression(context: Context, dropout: float = 0.0) -> Regression:
    context.seed_torch("initialise")
    return context.place(Regression(dropout))


def batch_of(number: int, rows: int = 12, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    stream = Context().torch_stream("batch", number)
    return torch.randn(rows, 6, generator=stream, dtype=dtype), torch.randn(rows, generator=stream, dtype=dtype)


def pieces(batch: tuple[Tensor, Tensor], count: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*(tensor.tensor_split(count) for tensor in batch), strict=True))


def weights_of(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def rows(*values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(len(values), 2)


def test_the_gradient_is_the_sum_of_the_losses_over_what_was_counted() -> None:
    loss = Products()
    update = make_update(loss, Sgd(learning_rate=0.5))
    metrics = update([rows([3.0, 0.0]), rows([0.0, 4.0], [0.0, 8.0])])
    # Sums of rows (3, 12), three rows counted.
    assert loss.weight.tolist() == [-0.5, -2.0]
    assert metrics == {
        "train/loss": Mean(0.0, 3.0),
        "train/grad_norm": pytest.approx(math.hypot(1, 4)),
        "train/learning_rate": 0.5,
        "train/skipped_updates": Latest(0.0),
        "train/rows": Mean(3.0, 2.0),
    }
    assert update.number == 1


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_accumulation_equals_the_large_batch(count: int) -> None:
    context = Context(precision="fp64")
    whole, cut = regression(context), regression(context)
    one = make_update(whole, Adam(), context=context, clip_norm=0.5)
    many = make_update(cut, Adam(), context=context, clip_norm=0.5, accumulate=count)
    for number in range(5):
        batch = batch_of(number, dtype=torch.float64)
        first, second = one([batch]), many(pieces(batch, count))
        assert first["train/loss"] == pytest.approx(second["train/loss"], rel=0, abs=1e-12)
        assert first["train/grad_norm"] == pytest.approx(second["train/grad_norm"], rel=0, abs=1e-12)
    torch.testing.assert_close(weights_of(whole), weights_of(cut), rtol=0, atol=1e-12)


def test_a_microbatch_that_is_all_padding_changes_nothing() -> None:
    context = Context(precision="fp64")
    without, with_padding = regression(context), regression(context)
    features, targets = batch_of(0, dtype=torch.float64)
    make_update(without, Adam(), context=context)([(features, targets)])
    padding = (torch.ones_like(features), torch.full_like(targets, math.nan))
    metrics = make_update(with_padding, Adam(), context=context, accumulate=3)([padding, (features, targets), padding])
    assert metrics["train/loss"].count == 12
    torch.testing.assert_close(weights_of(without), weights_of(with_padding), rtol=0, atol=1e-14)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_update_that_counts_nothing_takes_no_step(precision: Any) -> None:
    loss = regression(Context())
    update = make_update(loss, AdamW(weight_decay=0.5), context=Context(precision=precision))
    before = weights_of(loss)
    metrics = update([(torch.ones(2, 6), torch.full((2,), math.nan))])
    assert all(torch.equal(*pair) for pair in zip(before, weights_of(loss), strict=True))
    assert (metrics["train/grad_norm"], metrics["train/loss"]) == (0.0, Mean(0.0, 0.0))
    assert (update.number, metrics["train/skipped_updates"]) == (1, Latest(0.0))
    assert update.state_dict()["optimizer"]["state"] == {}


def test_the_norm_is_clipped_after_normalisation() -> None:
    loss = Products()
    # The mean of the rows is (3, 4), of norm 5; it is scaled down to 2.
    metrics = make_update(loss, clip_norm=2.0)([rows([6.0, 0.0], [0.0, 8.0])])
    assert loss.weight.tolist() == pytest.approx([-3 * 2 / 5, -4 * 2 / 5])
    assert metrics["train/grad_norm"] == 5.0


def test_a_norm_below_the_bound_is_left_as_it_is() -> None:
    loss = Products()
    make_update(loss, clip_norm=5.0)([rows([6.0, 0.0], [0.0, 8.0])])
    assert loss.weight.tolist() == [-3.0, -4.0]


def test_values_are_clipped_after_normalisation_and_after_the_norm() -> None:
    loss = Products()
    make_update(loss, clip_value=3.5)([rows([-6.0, 0.0], [0.0, 8.0])])
    assert loss.weight.tolist() == [3.0, -3.5]
    loss = Products()
    make_update(loss, clip_norm=2.5, clip_value=1.75)([rows([6.0, 0.0], [0.0, -8.0])])
    assert loss.weight.tolist() == [-1.5, 1.75]


def test_gradients_left_by_others_do_not_leak_into_an_update() -> None:
    loss = Products()
    loss.weight.grad = torch.full((2,), 100.0, dtype=torch.float64)
    make_update(loss)([rows([1.0, 2.0])])
    assert loss.weight.tolist() == [-1.0, -2.0]


def test_the_first_update_is_number_one_of_the_schedule() -> None:
    update = make_update(Products(), Sgd(learning_rate=2.0), InverseSqrt(warmup_updates=4))
    rates = [update([rows([1.0, 1.0])])["train/learning_rate"] for _ in range(5)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2 * math.sqrt(4 / 5)])


def test_the_horizon_of_a_schedule_is_the_length_of_the_run() -> None:
    update = Update(Products(), Sgd(learning_rate=1.0), Linear(), UpdateConfig(), Context(), updates=4)
    rates = [update([rows([1.0, 1.0])])["train/learning_rate"] for _ in range(5)]
    assert rates == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_observing_evaluations_lowers_the_rate_of_a_plateau() -> None:
    loss = Products()
    update = make_update(loss, schedule=Plateau(patience_evaluations=1))
    update([rows([1.0, 2.0])])
    update.observe(1.0)
    update.observe(1.0)
    assert update([rows([1.0, 2.0])])["train/learning_rate"] == 0.5
    assert loss.weight.tolist() == [-1.5, -3.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda config: config.kind)
def test_an_update_that_is_not_finite_leaves_weights_and_optimizer_untouched(optimizer: Optimizer, bad: float) -> None:
    loss = regression(Context())
    update = make_update(loss, optimizer, clip_norm=1.0, clip_value=1.0)
    for number in range(3):
        update([batch_of(number)])
    weights, state = weights_of(loss), through_a_file(update.state_dict())
    features, targets = batch_of(3)
    features[5, 2] = bad
    metrics = update(pieces((features, targets), 3))
    assert metrics["train/skipped_updates"] == Latest(1.0)
    assert not math.isfinite(metrics["train/grad_norm"])
    torch.testing.assert_close(weights_of(loss), weights, rtol=0, atol=0)
    now = update.state_dict()
    assert (now["number"], now["skipped"]) == (4, 1)
    torch.testing.assert_close(now["optimizer"]["state"], state["optimizer"]["state"], rtol=0, atol=0)
    assert update([batch_of(4)])["train/skipped_updates"] == Latest(1.0)
    assert any(not torch.equal(*pair) for pair in zip(weights, weights_of(loss), strict=True))


class Branches(nn.Module):
    """Two weights, of which one receives the gradient that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.sound = nn.Parameter(torch.zeros(()))
        self.inner = nn.ParameterDict({"broken": nn.Parameter(torch.zeros(())), "more": nn.Parameter(torch.zeros(()))})

    def forward(self, slope: float) -> LossTerms:
        return LossTerms(self.sound + slope * (self.inner["broken"] + self.inner["more"]), 1.0, {})


def test_training_fails_after_so_many_in_a_row_and_names_the_first_parameter() -> None:
    update = make_update(Branches(), stop_after_non_finite=3)
    for slope in [math.nan, math.nan, 1.0, math.inf, math.nan]:
        update([slope])
    with pytest.raises(TrainingError) as caught:
        update([math.nan])
    assert str(caught.value) == (
        "update 6: gradient of inner.broken: not finite 3 times in a row; "
        "lower optimizer.learning_rate or set update.clip_norm"
    )


def test_training_can_fail_at_once() -> None:
    with pytest.raises(TrainingError) as caught:
        make_update(Branches(), stop_after_non_finite=1)([math.inf])
    assert str(caught.value) == (
        "update 1: gradient of inner.broken: not finite 1 time in a row; "
        "lower optimizer.learning_rate or set update.clip_norm"
    )


def test_finite_gradients_whose_norm_is_infinite_are_not_finite() -> None:
    # 1.5e19 squared is finite in float32, the sum of two such squares is not.
    with pytest.raises(TrainingError, match="gradient of all parameters together: not finite 1 time in a row"):
        make_update(Branches(), stop_after_non_finite=1)([1.5e19])


def train(update: Update, first: int, last: int, dtype: torch.dtype) -> None:
    for number in range(first, last):
        update(pieces(batch_of(number, dtype=dtype), 2))
        if number % 2:
            update.observe(1.0)


def resumed_equals_uninterrupted(optimizer: Optimizer, schedule: Schedule, context: Context) -> None:
    dtype = torch.float64 if context.precision == "fp64" else torch.float32
    straight = regression(context, dropout=0.3)
    uninterrupted = make_update(straight, optimizer, schedule, context, clip_norm=1.0)
    train(uninterrupted, 0, 8, dtype)

    killed = regression(context, dropout=0.3)
    before = make_update(killed, optimizer, schedule, context, clip_norm=1.0)
    train(before, 0, 5, dtype)
    saved = through_a_file({"model": killed.state_dict(), "update": before.state_dict()})
    torch.manual_seed(99)
    resumed = context.place(Regression(dropout=0.3))
    after = make_update(resumed, optimizer, schedule, context, clip_norm=1.0)
    resumed.load_state_dict(saved["model"])
    after.load_state_dict(saved["update"])
    assert after.number == 5
    train(after, 5, 8, dtype)

    assert all(torch.equal(*pair) for pair in zip(weights_of(straight), weights_of(resumed), strict=True))
    assert any(not torch.equal(*pair) for pair in zip(weights_of(straight), weights_of(killed), strict=True))
    torch.testing.assert_close(after.state_dict(), uninterrupted.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda config: config.kind)
def test_every_optimizer_resumes_to_the_same_bytes(optimizer: Optimizer) -> None:
    resumed_equals_uninterrupted(optimizer, Linear(), Context())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda config: config.kind)
def test_every_schedule_resumes_to_the_same_bytes(schedule: Schedule) -> None:
    resumed_equals_uninterrupted(Adam(learning_rate=0.01), schedule, Context())


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp64"])
def test_every_precision_resumes_to_the_same_bytes(precision: Any) -> None:
    resumed_equals_uninterrupted(AdamW(), Linear(), Context(precision=precision))


def test_settings_come_from_the_configuration_and_not_from_the_state() -> None:
    first = make_update(Products(), AdamW(weight_decay=0.5, betas=(0.5, 0.5)))
    first([rows([1.0, 1.0])])
    second = make_update(Products(), AdamW(weight_decay=0.25, betas=(0.9, 0.9)))
    settings = second.state_dict()["optimizer"]["param_groups"]
    second.load_state_dict(through_a_file(first.state_dict()))
    assert second.state_dict()["optimizer"]["param_groups"] == settings


def test_dropout_is_a_function_of_seed_rank_and_update() -> None:
    def loss_of(context: Context, number: int) -> Mean:
        loss = regression(Context(), dropout=0.5)
        update = make_update(loss, context=context)
        update.number = number
        torch.rand(7)
        return update([batch_of(0)])["train/loss"]

    first = loss_of(Context(seed=1), 3)
    assert first == loss_of(Context(seed=1), 3)
    assert first != loss_of(Context(seed=2), 3)
    assert first != loss_of(Context(seed=1), 4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_computes_near_and_keeps_its_weights_in_single(precision: Any) -> None:
    exact, near = regression(Context()), regression(Context())
    one, two = make_update(exact, Adam()), make_update(near, Adam(), context=Context(precision=precision))
    seen = []
    near.network[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    for number in range(10):
        first, second = one([batch_of(number)]), two([batch_of(number)])
        assert first["train/grad_norm"] == pytest.approx(second["train/grad_norm"], rel=0.1)
        assert second["train/skipped_updates"] == Latest(0.0)
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert {weight.dtype for weight in weights_of(near)} == {torch.float32}
    torch.testing.assert_close(weights_of(exact), weights_of(near), rtol=0, atol=0.005)


def test_an_overflow_of_the_loss_scale_is_skipped_and_not_held_against_the_run() -> None:
    """The gradient is 60,000, which is finite in fp16; 2, 4, 8 and 16 times as much is not."""

    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1, 1, bias=False)
            nn.init.zeros_(self.linear.weight)

        def forward(self, column: Tensor) -> LossTerms:
            return LossTerms(self.linear(column).float().sum(), 2.0, {})

    loss = Steep()
    update = make_update(loss, context=Context(precision="fp16"), stop_after_non_finite=2)
    column = torch.tensor([[30_000.0], [30_000.0]])
    skipped = [metric_value(update([column])["train/skipped_updates"]) for _ in range(5)]
    assert skipped == [1.0, 2.0, 3.0, 4.0, 4.0]
    assert loss.linear.weight.item() == -30_000.0
    assert update.state_dict()["scaler"]["scale"] == 1.0
    assert update.state_dict()["non_finite_in_a_row"] == 0


def test_a_loss_that_is_not_a_number_fails_once_its_scale_is_not_to_blame() -> None:
    update = make_update(Branches(), context=Context(precision="fp16"), stop_after_non_finite=2)
    # The scale, 16 = 2 ** 4, falls 17 times until it is 2 ** -13.
    for _ in range(17 + 1):
        update([math.nan])
    with pytest.raises(TrainingError, match=r"update 19: gradient of inner\.broken: not finite 2 times in a row"):
        update([math.nan])


def test_the_metrics_of_all_microbatches_have_the_same_names() -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, name: str) -> LossTerms:
            return LossTerms(self.weight * 1, 1.0, {name: Mean(1.0, 1.0)})

    with pytest.raises(ValueError, match=r"the metrics of one microbatch are \['a'\], of the next \['b'\]"):
        make_update(Fickle())(["a", "b"])


def test_an_update_without_microbatches_is_refused() -> None:
    with pytest.raises(ValueError, match="an update needs a microbatch on every rank; one that counts nothing can"):
        make_update(Products())([])
