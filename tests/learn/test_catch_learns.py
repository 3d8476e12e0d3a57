"""Catch: small enough that its optimum is known and reached. `make learn` takes three seeds."""

import pytest

from footplate.execution import run
from footplate.job import load_job

pytestmark = [pytest.mark.learn, pytest.mark.slow]


def test_the_ball_is_caught_98_times_of_100_and_more() -> None:
    """A miss costs 2 of the optimum of 1; the policy that is evaluated still explores."""
    *_, last = run(load_job("catch-paac", ["device=cpu"]))
    assert last.metrics["eval/return"] >= 0.96  # type: ignore[operator]


def test_it_is_caught_as_well_where_a_reset_takes_a_step_of_its_own() -> None:
    *_, last = run(load_job("catch-paac", ["environment.autoreset=next_step", "device=cpu"]))
    assert last.metrics["eval/return"] >= 0.96  # type: ignore[operator]


def test_it_is_caught_as_well_by_an_actor_that_lags_an_update_behind() -> None:
    """With smaller steps: at the recipe's 0.003 one seed of five ends at 0, its actor too far from what is learnt."""
    smaller_steps = ["optimizer.learning_rate=0.001", "steps=160000"]
    *_, last = run(load_job("catch-paac", ["lag=1", "device=cpu", *smaller_steps]))
    assert last.metrics["eval/return"] >= 0.96  # type: ignore[operator]
