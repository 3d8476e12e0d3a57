"""DQN on Catch, whose optimum is known, and on CartPole-v1, to the score at which it counts as solved."""

import pytest

from footplate.execution import run
from footplate.job import load_job

pytestmark = [pytest.mark.learn, pytest.mark.slow]


@pytest.mark.parametrize("kind", ["uniform", "proportional", "rank"])
def test_every_ball_is_caught(kind: str) -> None:
    *_, last = run(load_job("catch-dqn", [f"replay.kind={kind}", "device=cpu"]))
    assert last.metrics["eval/return"] == 1.0


def test_the_best_mean_return_of_100_episodes_is_at_least_475() -> None:
    returns = [
        step.metrics["eval/return"]
        for step in run(load_job("cartpole-dqn", ["device=cpu"]))
        if "eval/return" in step.metrics
    ]
    assert max(returns) >= 475  # type: ignore[type-var, operator]
