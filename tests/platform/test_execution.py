"""What surrounds a task while it runs."""

from pathlib import Path

import pytest
import torch

from footplate.errors import TrainingError
from footplate.execution import process_settings, run
from footplate.job import Job, load_job


@pytest.fixture
def job() -> Job:
    return load_job("copy-transformer")


@pytest.mark.parametrize("size", [(2**46,), (2**60, 2**10)])
def test_a_lack_of_memory_is_one_line(job: Job, size: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError) as raised, process_settings(job):
        torch.empty(size)
    assert str(raised.value) == (
        "memory: the job needs more than there is; make the model, its batches or the beam smaller, "
        "or set update.accumulate"
    )


def test_other_errors_keep_their_trace(job: Job) -> None:
    with pytest.raises(RuntimeError, match="must match the size"), process_settings(job):
        torch.zeros(2) + torch.zeros(3)


@pytest.mark.parametrize(
    "setting",
    ["update.clip_value=3.4e38", "optimizer={kind: rmsprop, weight_decay: 3.4e38}", "optimizer.weight_decay=3.4e38"],
)
def test_the_largest_numbers_that_a_recipe_may_have_are_none_too_large_for_torch(tmp_path: Path, setting: str) -> None:
    (tmp_path / "line.yaml").write_text(f"task: {Path(__file__).with_name('line_task.py')}\nthreads: 1\n")
    job = load_job(tmp_path / "line.yaml", ["updates=1", setting])
    assert [step.update for step in run(job) if step.activity is None] == [1]
