"""The first losses of the translation recipes: a change here is a change of what is trained, and must be meant."""

import random
from pathlib import Path

import pytest

from footplate.execution import run
from footplate.job import load_job
from footplate.step import Mean


def first_losses(recipe: str, count: int, *overrides: str) -> list[float]:
    losses = []
    for step in run(load_job(recipe, ["device=cpu", *overrides])):
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


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parallel text under the names of Multi30k and of Tatoeba: made-up words, turned around on the other side."""
    folder, chance = tmp_path_factory.mktemp("text"), random.Random(1)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(1, 6))) for _ in range(60)]
    for part, count in {"train": 300, "val": 10, "valid": 10, "test": 10, "test_2016_flickr": 10}.items():
        english = [" ".join(chance.choices(words, k=chance.randint(2, 9))) for _ in range(count)]
        (folder / f"{part}.en").write_text("".join(f"{line}\n" for line in english))
        (folder / f"{part}.de").write_text("".join(f"{line[::-1]}\n" for line in english))
    return folder


@pytest.mark.parametrize(
    ("recipe", "losses"),
    [
        ("multi30k-en-de", [6.39090, 6.16334, 6.23163]),
        ("multi30k-de-en", [6.27686, 6.14824, 6.20721]),
        ("multi30k-en-de-lstm", [5.78234, 5.79871, 5.78299]),
        ("multi30k-en-de-convolutional", [5.82558, 5.80056, 5.71576]),
        ("tatoeba-de-en", [7.73324, 7.58058, 7.62763]),
    ],
)
def test_first_losses_of_the_recipes_that_read_parallel_text(text: Path, recipe: str, losses: list[float]) -> None:
    smaller = [f"corpus.folder={text}", "vocabulary.size=320", "batch_tokens=512", "threads=1"]
    assert first_losses(recipe, 3, *smaller) == pytest.approx(losses, rel=1e-4)
