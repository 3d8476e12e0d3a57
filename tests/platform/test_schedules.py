"""Each schedule's formula, worked by hand or against torch's."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

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
    build_schedule,
)


def factors(config: Schedule, updates: int) -> list[float]:
    rate = build_schedule(config, updates)
    return [rate.factor(number) for number in range(1, updates + 1)]


def torchs_factors(updates: int, scheduler: str, **settings: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    theirs = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **settings)
    rates = []
    for _ in range(updates):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    return rates


@pytest.mark.parametrize(
    "config",
    [
        Constant(warmup_updates=4),
        InverseSqrt(warmup_updates=4),
        Linear(warmup_updates=4),
        Cosine(warmup_updates=4),
        Stepped(warmup_updates=4, every_updates=3),
        Exponential(warmup_updates=4, every_updates=3),
        Plateau(warmup_updates=4),
    ],
    ids=lambda config: config.kind,
)
def test_the_first_update_of_a_warmup_makes_a_part_of_a_step_and_the_last_a_whole_one(config: Schedule) -> None:
    assert factors(config, 20)[:4] == [0.25, 0.5, 0.75, 1.0]


def test_constant_stays_at_one() -> None:
    assert factors(Constant(), 3) == [1.0, 1.0, 1.0]


def test_the_inverse_square_root_peaks_at_the_end_of_the_warmup() -> None:
    rates = factors(InverseSqrt(warmup_updates=4), 16)
    assert rates[3] == 1.0
    assert rates[4:] == pytest.approx([math.sqrt(4 / number) for number in range(5, 17)])
    assert rates[15] == 0.5


def test_the_inverse_square_root_is_vaswanis_formula_at_his_peak() -> None:
    width, warmup = 512, 4000
    peak = 1 / math.sqrt(width * warmup)
    rate = build_schedule(InverseSqrt(warmup_updates=warmup), 100_000)
    for number in [1, 3999, 4000, 4001, 100_000]:
        theirs = width**-0.5 * min(number**-0.5, number * warmup**-1.5)
        assert peak * rate.factor(number) == pytest.approx(theirs, rel=1e-12)


def test_linear_falls_to_zero_just_after_the_last_update() -> None:
    rate = build_schedule(Linear(), 4)
    assert [rate.factor(number) for number in range(1, 7)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_a_horizon_of_its_own_takes_the_place_of_the_runs_length() -> None:
    assert factors(Linear(updates=2), 4) == [1.0, 0.5, 0.0, 0.0]
    assert factors(Cosine(updates=2, floor=0.5), 4) == pytest.approx([1.0, 0.75, 0.5, 0.5])


def test_a_run_shorter_than_its_warmup_only_warms_up() -> None:
    assert factors(Linear(warmup_updates=4), 3) == [0.25, 0.5, 0.75]
    assert build_schedule(Linear(warmup_updates=4), 3).factor(5) == 0.0


def test_cosine_equals_torchs() -> None:
    expected = torchs_factors(10, "CosineAnnealingLR", T_max=10, eta_min=0.1)
    assert factors(Cosine(floor=0.1), 10) == pytest.approx(expected)


def test_steps_and_exponential_equal_torchs() -> None:
    expected = torchs_factors(10, "StepLR", step_size=3, gamma=0.5)
    assert factors(Stepped(every_updates=3, factor=0.5), 10) == pytest.approx(expected)
    expected = torchs_factors(10, "ExponentialLR", gamma=0.9)
    assert factors(Exponential(every_updates=1, factor=0.9), 10) == pytest.approx(expected)
    assert factors(Exponential(every_updates=4, factor=0.5), 9)[::4] == pytest.approx([1.0, 0.5, 0.25])


def test_one_cycle_rises_falls_as_long_and_then_vanishes() -> None:
    rate = build_schedule(OneCycle(cycle=0.8, start=0.2, end=0.0), 10)
    assert [rate.factor(number) for number in range(1, 12)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.0]
    )


def test_one_cycle_can_be_all_cycle() -> None:
    rate = build_schedule(OneCycle(cycle=1.0, start=0.5), 4)
    assert [rate.factor(number) for number in range(1, 6)] == pytest.approx([0.5, 0.75, 1.0, 0.75, 0.5])


def test_one_cycle_ends_where_it_is_told() -> None:
    rate = build_schedule(OneCycle(cycle=1.0, start=0.5, updates=4), 100)
    assert [rate.factor(number) for number in (1, 3, 5, 50)] == pytest.approx([0.5, 1.0, 0.5, 0.5])


def test_one_cycle_refuses_a_warmup_of_its_own() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        TypeAdapter(Schedule).validate_json('{"kind": "one_cycle", "warmup_updates": 10}')


@given(
    config=st.sampled_from(
        [
            Constant(),
            InverseSqrt(warmup_updates=7),
            Linear(warmup_updates=3),
            Cosine(warmup_updates=3, floor=0.1),
            Stepped(every_updates=5),
            Exponential(every_updates=5, warmup_updates=2),
            Plateau(),
            OneCycle(),
        ]
    ),
    updates=st.integers(1, 200),
    number=st.integers(1, 400),
)
def test_the_configured_rate_is_never_exceeded_and_never_negative(config: Schedule, updates: int, number: int) -> None:
    assert -1e-12 <= build_schedule(config, updates).factor(number) <= 1 + 1e-12


def watched(config: Plateau, values: list[float]) -> list[float]:
    rate = build_schedule(config, 1000)
    seen = []
    for value in values:
        rate.observe(value)
        seen.append(rate.factor(1))
    return seen


def test_a_plateau_drops_after_its_patience_and_waits_again() -> None:
    config = Plateau(patience_evaluations=2)
    assert watched(config, [1, 1, 0, 1, 0.5, 2, 2, 2]) == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_a_plateau_knows_which_direction_is_better() -> None:
    assert watched(Plateau(patience_evaluations=1, better="lower"), [3, 2, 1, 1]) == [1, 1, 1, 0.5]
    assert watched(Plateau(patience_evaluations=1, better="higher"), [3, 2, 1, 4]) == [1, 0.5, 0.25, 0.25]


def test_a_plateau_does_not_drop_below_its_minimum() -> None:
    assert watched(Plateau(patience_evaluations=1, minimum=0.3), [0, 0, 0, 0]) == [1, 0.5, 0.3, 0.3]


def test_what_is_not_finite_is_never_better_on_a_plateau() -> None:
    assert watched(Plateau(patience_evaluations=2, better="lower"), [math.nan, -math.inf, 1.0, math.nan, math.nan]) == [
        1,
        0.5,
        0.5,
        0.5,
        0.25,
    ]


def test_a_plateau_goes_on_where_it_was_saved() -> None:
    values = [1.0, 2.0, 1.0, 1.5, 1.0, 2.5, 0.0, 0.0, 0.0]
    config = Plateau(patience_evaluations=2)
    expected = watched(config, values)
    for kill in range(len(values)):
        before, after = build_schedule(config, 1000), build_schedule(config, 1000)
        for value in values[:kill]:
            before.observe(value)
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        for value in values[kill:]:
            after.observe(value)
        assert after.factor(1) == expected[-1]
        assert after.state_dict()["best"] == 2.5


def test_only_a_plateau_listens_to_evaluations() -> None:
    rate = build_schedule(Linear(), 10)
    for _ in range(20):
        rate.observe(0.0)
    assert rate.factor(1) == 1.0
    assert rate.state_dict() == {}
