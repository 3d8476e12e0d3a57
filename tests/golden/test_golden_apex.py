"""The first losses of the recipes of Ape-X, in this thread: a change here must be meant."""

import pytest

from footplate.execution import run
from footplate.job import load_job
from footplate.step import Mean


@pytest.mark.parametrize(
    ("recipe", "losses"),
    [
        ("catch-apex", [0.093187727, 0.089620814, 0.089265376]),
        ("cartpole-apex", [0.49719229, 0.12225293, 0.056106545]),
        (
            "pong-apex actors=4 environments=2 learning_starts_steps=300 batch_size=32 replay.transitions=5000 "
            "lead_rollouts=1 threads=1",
            [0.00039897228, 8.7229047e-05, 0.00024050729],
        ),
    ],
)
def test_first_losses(recipe: str, losses: list[float]) -> None:
    name, *overrides = recipe.split()
    found: list[float] = []
    for step in run(load_job(name, ["device=cpu", "processes=false", *overrides])):
        if step.activity is None:
            loss = step.metrics["train/loss"]
            assert isinstance(loss, Mean)
            found.append(float(loss.total) / float(loss.count))
            if len(found) == 3:
                break
    assert found == pytest.approx(losses, rel=1e-3)
