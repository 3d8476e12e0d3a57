"""A3C, asynchronous Q-learning and PPO on Catch, to its optimum. `make learn` has CartPole, and three seeds."""

import pytest

from footplate.execution import run
from footplate.job import load_job

pytestmark = [pytest.mark.learn, pytest.mark.slow]


@pytest.mark.parametrize("recipe", ["catch-async-q", "catch-ppo"])
def test_the_ball_is_caught_98_times_of_100_and_more(recipe: str) -> None:
    """Q-learning with two processes, unlocked."""
    *_, last = run(load_job(recipe, ["device=cpu"]))
    assert last.metrics["eval/return"] >= 0.96  # type: ignore[operator]


def test_a3c_with_two_processes_catches_it_95_times_of_100_and_more() -> None:
    """Its policy must keep exploring, or it settles too early: that costs some balls when actions are sampled."""
    *_, last = run(load_job("catch-a3c"))
    assert last.metrics["eval/return"] >= 0.9  # type: ignore[operator]


def test_an_lstm_learns_as_well() -> None:
    with_memory = ["processes=false", "network.shared=true", "memory.units=32"]
    *_, last = run(load_job("catch-a3c", with_memory))
    assert last.metrics["eval/return"] >= 0.9  # type: ignore[operator]


def test_paac_learns_from_generalised_advantages_too() -> None:
    *_, last = run(load_job("catch-paac", ["device=cpu", "returns.kind=gae"]))
    assert last.metrics["eval/return"] >= 0.96  # type: ignore[operator]
