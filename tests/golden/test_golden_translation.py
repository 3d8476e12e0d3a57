"""The first losses of the translation recipes: a change here is a change of what is trained, and must be meant."""

import pytest

from footplate.execution import run
from footplate.job import load_job
from footplate.step import Mean


def first_losses(recipe: str, count: int) -> list[float]:
    losses = []
    for step in run(load_job(recipe, ["device=cpu"])):
        loss = step.metrics["train/loss"]
        assert isinstance(loss, Mean)
        losses.append(float(loss.total) / float(loss.count))
        if len(losses) == count:
            break
    return losses


def test_first_losses_of_the_copy_recipe() -> None:
    assert first_losses("copy-transformer", 5) == pytest.approx([5.23452, 5.40849, 5.09719, 5.13474, 4.77620], rel=1e-4)


def test_first_losses_of_the_scan_recipe() -> None:
    assert first_losses("scan-transformer", 3) == pytest.approx([2.83006, 2.79399, 2.86756], rel=1e-4)


def test_first_losses_of_the_scan_recipe_with_an_lstm_that_attends() -> None:
    assert first_losses("scan-lstm", 3) == pytest.approx([2.30284, 2.15664, 2.06344], rel=1e-4)


def test_first_losses_of_the_scan_recipe_with_an_lstm_that_does_not() -> None:
    assert first_losses("scan-lstm-plain", 3) == pytest.approx([2.29271, 2.18333, 2.08628], rel=1e-4)


def test_first_losses_of_the_convolutional_copy_recipe() -> None:
    losses = first_losses("copy-convolutional", 5)
    assert losses == pytest.approx([2.65974, 2.65030, 2.64603, 2.65811, 2.63443], rel=1e-4)
