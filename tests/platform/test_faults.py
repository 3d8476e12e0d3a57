"""What is lost, and what lacks, has a name; keys that say what a cluster run does about it."""

from pathlib import Path

import pytest
import torch

from footplate.errors import ConfigError, FootplateError, TrainingError
from footplate.faults import LostWorkerError, SilentWorkerError, lack_of_memory_named, losses_named
from footplate.job import Job, Resources, load_job
from footplate.launch import find_launcher

GLOO = "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/"
RECIPE = "task: {task}\nresources: {{workers: {workers}}}\non: ray\n"
TASK = Path(__file__).with_name("line_task.py")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (f"{GLOO}pair.cc:553] Connection closed by peer [127.0.0.1]:47787. This is typically ...", LostWorkerError),
        (f"{GLOO}pair.cc:537] Read error [127.0.0.1]:27265: Connection reset by peer.", LostWorkerError),
        (f"{GLOO}unbound_buffer.cc:78] Timed out waiting 8000ms for recv operation to complete", SilentWorkerError),
    ],
)
def test_a_failed_exchange_is_the_loss_of_another_worker(said: str, kind: type[Exception]) -> None:
    with pytest.raises(LostWorkerError) as raised, losses_named():
        raise RuntimeError(said)
    assert type(raised.value) is kind


def test_what_nccl_and_the_store_raise_is_a_loss_too() -> None:
    with pytest.raises(SilentWorkerError), losses_named():
        raise torch.distributed.DistStoreError("wait timeout after 8000ms, keys: /rank")
    with pytest.raises(LostWorkerError), losses_named():
        raise torch.distributed.DistBackendError("NCCL error: remote process exited or there was a network error")


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="a shape") as raised, losses_named(), lack_of_memory_named():
        raise RuntimeError("a shape")
    assert type(raised.value) is RuntimeError
    with pytest.raises(TrainingError, match=r"^memory: the job needs more than there is"), lack_of_memory_named():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize(("workers", "fewest", "most"), [("3", 3, 3), ("1:4", 1, 4), ("2:2", 2, 2)])
def test_workers_are_a_number_or_the_fewest_and_the_most(tmp_path: Path, workers: str, fewest: int, most: int) -> None:
    resources = load(tmp_path, workers).resources
    assert (resources.fewest_workers, resources.most_workers) == (fewest, most)


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ("4:1", "4:1 is no number of workers; the fewest must be at least 1, the most no fewer"),
        ("0", "0 is no number of workers; the fewest must be at least 1, the most no fewer"),
        ("many", "'many' is no number of workers; give one, or the fewest and the most such as 1:4"),
        ("1:2:3", "'1:2:3' is no number of workers; give one, or the fewest and the most such as 1:4"),
    ],
)
def test_another_number_of_workers_is_refused(tmp_path: Path, workers: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, workers)
    assert [problem.partition("resources.workers: ")[2] for problem in caught.value.problems] == [said]


def test_the_threads_of_an_elastic_run_are_shared_among_the_most_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert load(tmp_path, "1:4").settled().threads == 2


def test_what_is_done_about_lost_workers_is_refused_where_there_are_none(tmp_path: Path) -> None:
    for overrides, message in (
        (
            ["faults.restarts=1"],
            "faults: are what a cluster run does about lost workers, and this job runs here; "
            "add --on ray, or drop them",
        ),
        (
            ["resources.wait=true"],
            "resources: are what a cluster reserves, and this job runs here; add --on ray, or drop them",
        ),
    ):
        with pytest.raises(FootplateError) as raised:
            find_launcher(load(tmp_path, "1", "on=here", *overrides))
        assert str(raised.value) == message
    assert Resources().wait is False


def load(tmp_path: Path, workers: str, *overrides: str) -> Job:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(task=TASK, workers=workers))
    return load_job(recipe, overrides)
