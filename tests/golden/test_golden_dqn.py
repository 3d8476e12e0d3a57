"""The first losses of the recipes of DQN: a change here is a change of what is trained, and must be meant."""

import pytest

from footplate.execution import run
from footplate.job import load_job
from footplate.step import Mean


@pytest.mark.parametrize(
    ("recipe", "losses"),
    [
        ("catch-dqn", [0.055968493, 0.024945494, 0.029103525]),
        ("cartpole-dqn", [0.57888502, 0.3097294, 0.12270319]),
        ("pong-dqn learning_starts_steps=80 replay.transitions=5000", [0.0018643594, 0.00038392982, 0.00050007919]),
    ],
)
def test_first_losses(recipe: str, losses: list[float]) -> None:
    name, *overrides = recipe.split()
    found: list[float] = []
    for step in run(load_job(name, ["device=cpu", *overrides])):
        if step.activity is None:
            loss = step.metrics["train/loss"]
            assert isinstance(loss, Mean)
            found.append(float(loss.total) / float(loss.count))
        if len(found) == len(losses):
            break
    assert found == pytest.approx(losses, rel=1e-3)
