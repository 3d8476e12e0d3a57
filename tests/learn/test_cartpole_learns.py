"""CartPole-v1 by PAAC, to the score at which it counts as solved."""

import pytest

from footplate.execution import run
from footplate.job import load_job

pytestmark = [pytest.mark.learn, pytest.mark.slow]


def test_the_mean_return_of_100_episodes_is_at_least_475() -> None:
    *_, last = run(load_job("cartpole-paac", ["device=cpu"]))
    assert last.metrics["eval/return"] >= 475  # type: ignore[operator]
