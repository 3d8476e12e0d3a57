"""The first losses of the recipes of PAAC: a change here is a change of what is trained, and must be meant."""

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
        ("catch-paac", [0.10286556, -0.18952289, 0.03765536]),
        ("cartpole-paac", [1.3021929, 1.3732706, 1.0252212]),
        ("pong-paac", [0.080742455, -0.046024412, 0.029097509]),
        ("breakout-paac", [-0.021376154, -0.016076614, -0.01602003]),
    ],
)
def test_first_losses(recipe: str, losses: list[float]) -> None:
    # Pong and Breakout pay nothing yet: theirs are the entropy and the values that the network starts with.
    assert first_losses(recipe) == pytest.approx(losses, rel=1e-3)
