"""Shared parameters: one optimizer with one statistic, whoever pushes."""

import sys
from contextlib import closing
from math import sqrt
from pathlib import Path

import pytest
import torch
from torch import nn

from footplate.context import Context
from footplate.optimizers import RmsProp
from footplate.shared_parameters import SharedParameters

sys.path.append(str(Path(__file__).parent))

from pool_workers import Pusher

SETTINGS = {"kind": "rmsprop", "learning_rate": 1.0, "decay": 0.5, "epsilon": 0.25, "epsilon_inside_root": True}


def shared(**changes: object) -> SharedParameters:
    module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(module.weight)
    return SharedParameters(module, RmsProp.model_validate(SETTINGS | changes))


def weight(parameters: SharedParameters) -> float:
    return next(parameters.module.parameters()).item()


def test_two_pushes_make_two_steps_with_one_statistic_and_epsilon_inside_the_root() -> None:
    one = shared()
    assert one.push([torch.tensor([[2.0]], dtype=torch.float64)], 0.1) == 0
    # s = 0.5 * 0 + 0.5 * 4 = 2; w = -0.1 * 2 / sqrt(2.25)
    assert weight(one) == pytest.approx(-0.2 / 1.5)
    assert one.push([torch.tensor([[1.0]], dtype=torch.float64)], 0.3) == 1
    # s = 0.5 * 2 + 0.5 * 1 = 1.5; w -= 0.3 * 1 / sqrt(1.75)
    assert weight(one) == pytest.approx(-0.2 / 1.5 - 0.3 / sqrt(1.75))


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_workers_step_on_the_same_parameters_with_the_same_statistic(processes: bool) -> None:
    """One after another, so that nothing is lost: two workers are one that pushes twice."""
    alone, together = (shared(initial_statistic=1, momentum=0.5) for _ in range(2))
    for _ in range(4):
        alone.push([torch.ones(1, 1, dtype=torch.float64)], 0.1)
    with closing(Context().pool(Pusher, [(together,), (together,)], processes=processes)) as pool:
        for worker in (0, 1, 0, 1):
            pool.submit(worker, "push", 1, 0.1).result()
        assert pool.submit(1, "pull").result()[0].item() == weight(alone)
    assert weight(together) == weight(alone) != 0
    assert together.state_dict() == alone.state_dict()


@pytest.mark.slow
def test_many_unlocked_pushes_at_once_lose_little_and_break_nothing() -> None:
    one = shared(decay=0.0, epsilon=3.0)
    with closing(Context().pool(Pusher, [(one,), (one,)], processes=True)) as pool:
        for push in [pool.submit(worker, "push", 200, 0.01) for worker in (0, 1)]:
            push.result()
    # Alone each step would be 0.01 / sqrt(1 + 3); a racing one may find the statistic at 0 or twice its size.
    assert -400 * 0.01 / sqrt(3) <= weight(one) <= -100 * 0.01 / sqrt(5)


def test_a_pull_copies_only_what_is_new() -> None:
    one, mine = shared(), torch.ones(1, 1, dtype=torch.float64)
    version = one.pull([mine])
    assert mine.item() == 0
    mine.fill_(7)
    assert one.pull([mine], version) == version
    assert mine.item() == 7
    one.put([torch.full((1, 1), 5.0, dtype=torch.float64)])
    assert one.pull([mine], version) == version + 1
    assert mine.item() == weight(one) == 5


def test_a_restored_optimizer_goes_on_as_if_it_had_never_stopped() -> None:
    through, stopped, resumed = shared(), shared(), shared()
    gradients = [torch.tensor([[value]], dtype=torch.float64) for value in (1.0, -2.0, 0.5)]
    for gradient in gradients:
        through.push([gradient], 0.1)
    for gradient in gradients[:2]:
        stopped.push([gradient], 0.1)
    resumed.module.load_state_dict(stopped.module.state_dict())
    resumed.load_state_dict(stopped.state_dict())
    resumed.push([gradients[2]], 0.1)
    assert weight(resumed) == weight(through)
    assert resumed.state_dict() == through.state_dict()
