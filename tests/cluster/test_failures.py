"""What failed workers mean, what the run does about it, and how a strange run folder is noticed; no cluster needed."""

from pathlib import Path

import pytest

from footplate.errors import FootplateError, TrainingError
from footplate.faults import LostWorkerError, SilentWorkerError
from footplate.pool import WorkerDiedError
from footplate.storage import StorageError
from footplate_cluster import connection  # noqa: F401  # sets what Ray reads when it is imported
from footplate_cluster.failures import loss
from footplate_cluster.marker import problem_with, write_marker
from footplate_cluster.roll import Place
from footplate_cluster.supervision import Restarts

PLACES = {rank: Place(f"node{rank // 2}", 100 + rank, f"id{rank // 2}") for rank in range(4)}
DIED = "The actor died unexpectedly before finishing this task.\n\tclass_name: RayTrainWorker\n"


def group_error(failures: dict[int, Exception]) -> Exception:
    from ray.train import WorkerGroupError

    return WorkerGroupError("failed", failures)


def dead(said: str) -> Exception:
    from ray.exceptions import RayActorError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    return WorkerHealthCheckFailedError("a health check failed", RayActorError(error_msg=DIED + said))


def hanging() -> Exception:
    from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

    return WorkerHealthCheckTimeoutError("hangs")


@pytest.mark.parametrize(
    ("failures", "waiting", "told"),
    [
        ({1: dead("Worker unexpectedly exits with a connection error code 2.")}, set(), "worker 1 on node0 died"),
        ({0: LostWorkerError("gone"), 3: dead("")}, set(), "worker 3 on node1 died"),
        (
            {2: dead("its node has died"), 3: dead("its node has died")},
            set(),
            "the machine of workers 2 and 3 on node1 is gone",
        ),
        ({0: dead(""), 3: dead("")}, set(), "worker 0 on node0 died; worker 3 on node1 died"),
        (
            {0: dead("Task was killed due to the node running low on memory.")},
            set(),
            "worker 0 on node0 was ended, as its machine ran out of memory",
        ),
        ({2: hanging()}, set(), "worker 2 on node1 did not answer for 60 seconds"),
        ({0: SilentWorkerError("silent")}, {0, 1, 3}, "worker 2 on node1 did not answer for 60 seconds"),
        ({0: LostWorkerError("gone")}, set(), "a worker died"),
        ({0: StorageError("s3://b: is not there"), 1: LostWorkerError("gone")}, set(), "s3://b: is not there"),
    ],
)
def test_the_loss_of_workers_is_told_in_a_line(failures: dict[int, Exception], waiting: set[int], told: str) -> None:
    assert loss(group_error(failures), PLACES, waiting, 60.0) == told


def test_a_mistake_is_raised_whatever_else_was_lost() -> None:
    mistake = FootplateError("vocabulary.size: too many; take fewer")
    with pytest.raises(FootplateError) as raised:
        loss(group_error({0: LostWorkerError("gone"), 1: mistake, 2: dead("")}), PLACES, set(), 60.0)
    assert raised.value is mistake
    with pytest.raises(TrainingError, match=r"^worker 1: ValueError: the line broke$"):
        loss(group_error({1: ValueError("the line\n broke")}), PLACES, set(), 60.0)


def test_workers_that_did_not_start_and_a_lost_controller_are_losses() -> None:
    from ray.exceptions import RayActorError, RaySystemError
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    assert (
        loss(ControllerError(WorkerGroupStartupTimeoutError(2)), {}, set(), 1.0) == "the workers could not be started"
    )
    assert loss(RayActorError(), {}, set(), 1.0) == "Ray's controller of the run died"
    with pytest.raises(TrainingError) as raised:
        loss(ControllerError(RaySystemError("No module named 'mine'", "Traceback\n ...")), {}, set(), 1.0)
    assert str(raised.value) == "the workers could not be started: System error: No module named 'mine'"


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (WorkerDiedError("worker 3: its process died"), "worker 3: its process died"),
        (LostWorkerError("the actor that held the parameters died"), "the actor that held the parameters died"),
    ],
)
def test_what_a_driver_lost_is_told_in_its_words(cause: Exception, told: str) -> None:
    from ray.exceptions import RayTaskError

    from footplate_cluster.driver import loss_of_driver

    assert loss_of_driver(RayTaskError("_drive", "Traceback", cause)) == told  # type: ignore[no-untyped-call]


def test_the_loss_of_a_driver_is_told_in_a_line() -> None:
    from ray.exceptions import (
        LocalRayletDiedError,
        NodeDiedError,
        ObjectLostError,
        OutOfMemoryError,
        RayError,
        WorkerCrashedError,
    )

    from footplate_cluster.driver import loss_of_driver

    losses: list[tuple[RayError, str]] = [
        (WorkerCrashedError(), "the driver died"),
        (NodeDiedError("gone"), "the machine of the driver is gone"),
        (OutOfMemoryError("low"), "the driver was ended, as its machine ran out of memory"),
        (LocalRayletDiedError(), "the driver was lost"),
        (ObjectLostError("00", "", ""), "the driver was lost"),  # type: ignore[no-untyped-call]
    ]
    assert [loss_of_driver(failure) for failure, _ in losses] == [told for _, told in losses]


def test_a_mistake_of_a_driver_is_raised() -> None:
    from ray.exceptions import RayTaskError

    from footplate_cluster.driver import loss_of_driver

    mistake = TrainingError("worker 1: its process died once too often")
    with pytest.raises(TrainingError) as raised:
        loss_of_driver(RayTaskError("_drive", "Traceback", mistake))  # type: ignore[no-untyped-call]
    assert raised.value is mistake
    with pytest.raises(TrainingError) as raised:
        loss_of_driver(RayTaskError("_drive", "Traceback", ImportError("no\n mine")))  # type: ignore[no-untyped-call]
    assert str(raised.value) == ("driver: no mine; mend it, and `footplate resume` goes on from the last checkpoint")


def test_waiting_for_room_ends_with_patience_or_when_the_run_is_to_stop() -> None:
    from footplate_cluster.capacity import wait_for_room

    wanted, advice = "1 CPU for the task and 2 x 1 CPU for its actors", "resources.cpus_per_actor"
    with pytest.raises(TrainingError) as raised:
        wait_for_room(lambda seconds: False, wanted, advice, 0.0, lambda: False)
    assert str(raised.value) == (
        "the cluster had no room for 1 CPU for the task and 2 x 1 CPU for its actors in 0 seconds; "
        "give it more machines, or ask for less with resources.cpus_per_actor"
    )
    wait_for_room(lambda seconds: False, wanted, advice, 0.0, lambda: True)
    wait_for_room(lambda seconds: True, wanted, advice, 0.0, lambda: False)


def test_a_new_checkpoint_counts_the_restarts_anew() -> None:
    restarts = Restarts(2)
    assert [restarts.count(update) for update in (0, 0, 40, 40, 40)] == [1, 2, 1, 2, None]
    assert Restarts(0).count(7) is None


def test_a_worker_that_sees_another_folder_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    folder, elsewhere, older = (tmp_path / name for name in ("run", "elsewhere", "older"))
    for path in (folder, elsewhere, older):
        path.mkdir()
    write_marker(older, "another start's token")
    write_marker(folder, "token")
    assert problem_with(folder, "token") is None
    for path in (elsewhere, older, tmp_path / "nowhere"):
        assert problem_with(path, "token") == (
            f"{path}: on node7 this is not the run folder that the driver sees; "
            "give --runs a folder on a disk that all machines of the cluster share, or a URL"
        )
