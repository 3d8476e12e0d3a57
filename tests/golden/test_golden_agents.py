"""The first losses of the recipes of A3C, asynchronous Q-learning and PPO: a change here must be meant."""

import pytest

from footplate.execution import run
from footplate.job import load_job
from footplate.step import Mean


def first_losses(recipe: str, *overrides: str) -> list[float]:
    losses: list[float] = []
    for step in run(load_job(recipe, ["device=cpu", *overrides])):
        loss = step.metrics["train/loss"]
        assert isinstance(loss, Mean)
        losses.append(float(loss.total) / float(loss.count))
        if len(losses) == 3:
            break
    return losses


@pytest.mark.parametrize(
    ("recipe", "losses"),
    [
        ("catch-ppo", [0.13334021, 0.13313325, 0.18623174]),
        ("cartpole-ppo", [0.11865069, 0.1654995, 0.20823454]),
        ("pendulum-ppo", [2.527205, 0.29248653, 0.072526253]),
        ("pong-ppo environments=2 rollout_steps=32", [0.17316344, 0.1269592, -0.027540937]),
    ],
)
def test_first_losses(recipe: str, losses: list[float]) -> None:
    assert first_losses(*recipe.split()) == pytest.approx(losses, rel=1e-3)


@pytest.mark.parametrize(
    ("recipe", "losses"),
    [
        ("catch-a3c", [0.048964114, 0.16751657, 0.24770609]),
        ("cartpole-a3c", [1.1103165, 0.99561447, 0.9132871]),
        ("catch-async-q", [0.45817696, 0.35095826, 0.35161809]),
        ("cartpole-async-q", [0.019754686, 0.012640819, 0.015979972]),
        ("pong-a3c workers=2", [-0.044456853, -0.069643927, 0.0047497088]),
    ],
)
def test_first_losses_of_workers_in_this_thread(recipe: str, losses: list[float]) -> None:
    assert first_losses(*recipe.split(), "processes=false") == pytest.approx(losses, rel=1e-3)
