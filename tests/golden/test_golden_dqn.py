"""The first losses of the recipes of DQN: a change here is a change of what is trained, and must be meant."""

import pytest

from footplate.execution import run
from footplate.job import load_job
from footplate.step import Mean


@pytest.mark.parametrize(
    ("recipe", "losses"),
    [
        ("catch-dqn", [0.068799652, 0.036736086, 0.035022702]),
        ("cartpole-dqn", [0.53744841, 0.26438266, 0.1095129]),
        ("pong-dqn learning_starts_steps=400 replay.transitions=5000", [0.0005768183, 0.00036700262, 0.0002490973]),
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
