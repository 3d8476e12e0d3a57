"""What is started again, how often, and what is said of it: with stand-ins for Ray, no cluster needed."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from footplate.errors import TrainingError
from footplate.folder import RunFolder, create_run
from footplate.job import Job, load_job
from footplate.pool import WorkerDiedError
from footplate.tracking.log_file import without_stamp
from footplate.usage import UsageOfWorkers
from footplate_cluster import connection  # noqa: F401  # sets what Ray reads when it is imported
from footplate_cluster import driver as driving
from footplate_cluster.resources import ActorShare
from footplate_cluster.roll import Place
from footplate_cluster.supervision import Supervisor

TASK = Path(__file__).parents[1] / "platform" / "line_task.py"
ADVICE = "mend it, and `footplate resume` goes on from the last checkpoint"


def run_of(tmp_path: Path, restarts: int) -> tuple[Job, RunFolder]:
    recipe = tmp_path / "line.yaml"
    recipe.write_text(f"task: {TASK}\n")
    return load_job(recipe, [f"faults.restarts={restarts}"]), create_run(tmp_path, "run", "line")


def saved(folder: RunFolder, update: int) -> None:
    """A checkpoint that counts as one: who supervises looks at nothing but the numbers."""
    place = folder.checkpoints / f"{update:06}"
    place.mkdir(parents=True)
    (place / "manifest.json").write_text("{}")


def said(folder: RunFolder) -> list[str]:
    return [without_stamp(line) for line in folder.log.read_text().splitlines()]


class Ending:
    """Stands for an `Attempt`, all of whose workers have ended."""

    def __init__(self, error: BaseException | None, workers: int) -> None:
        self.error, self.workers, self.roll = error, workers, self

    def start(self) -> None: ...

    def is_alive(self) -> bool:
        return False

    def places(self) -> dict[int, Place]:
        return {rank: Place(f"node{rank}", 100 + rank, f"id{rank}") for rank in range(self.workers)}

    def waiting(self) -> set[int]:
        return set()

    def clear(self) -> None: ...


def death_of_worker_1() -> Exception:
    from ray.exceptions import RayActorError
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    return WorkerGroupError("failed", {1: WorkerHealthCheckFailedError("failed", RayActorError())})


def supervised(
    monkeypatch: pytest.MonkeyPatch, run: tuple[Job, RunFolder], endings: Iterable[Callable[[], BaseException | None]]
) -> BaseException | None:
    """How a run of two workers ends whose starts end so, one after another."""
    left = iter(endings)
    monkeypatch.setattr("footplate_cluster.supervision.find_room", lambda *given: 2)
    monkeypatch.setattr("footplate_cluster.supervision.leaving_nodes", set)
    monkeypatch.setattr("footplate_cluster.supervision.Attempt", lambda *given: Ending(next(left)(), workers=given[4]))
    supervisor = Supervisor(*run, run[1].path / "ray", {"CPU": 1.0})
    supervisor.run()
    assert next(left, None) is None
    return supervisor.error


def test_a_run_whose_restarts_do_not_help_ends_and_says_where_it_would_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, folder = run_of(tmp_path, restarts=2)
    error = supervised(monkeypatch, (job, folder), [death_of_worker_1] * 3)
    assert isinstance(error, TrainingError)
    assert str(error) == (
        "worker 1 on node1 died; 2 restarts since the start did not help; "
        f"`footplate resume {folder.argument}` goes on from the start"
    )
    assert said(folder) == [
        "worker 1 on node1 died; going on from the start, restart 1 of 2",
        "worker 1 on node1 died; going on from the start, restart 2 of 2",
    ]


def test_a_checkpoint_between_two_losses_counts_the_restarts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, folder = run_of(tmp_path, restarts=1)

    def gets_to_update_40() -> Exception:
        saved(folder, 40)
        return death_of_worker_1()

    assert supervised(monkeypatch, (job, folder), [death_of_worker_1, gets_to_update_40, lambda: None]) is None
    assert said(folder) == [
        "worker 1 on node1 died; going on from the start, restart 1 of 1",
        "worker 1 on node1 died; going on from update 40, restart 1 of 1",
    ]
    error = supervised(monkeypatch, (job, folder), [death_of_worker_1] * 2)
    assert str(error) == (
        "worker 1 on node1 died; 1 restart since update 40 did not help; "
        f"`footplate resume {folder.argument}` goes on from update 40"
    )


class Bundles:
    """Stands for a placement group that is there at once, and for the driver in it."""

    def __init__(self, answers: Iterable[Callable[[], None]]) -> None:
        self.open = self.reserved = 0
        self.bundles: list[dict[str, float]] = []
        self._answers = iter(answers)

    def reserve(self, bundles: list[dict[str, float]], strategy: str) -> "Bundles":
        assert strategy == "PACK"
        self.bundles, self.open, self.reserved = bundles, self.open + 1, self.reserved + 1
        return self

    def wait(self, seconds: float) -> bool:
        return True

    def release(self, group: "Bundles") -> None:
        self.open -= 1

    def options(self, **options: Any) -> "Bundles":
        return self

    def remote(self, *arguments: Any) -> None:
        return None

    def answer(self, reference: None) -> None:
        next(self._answers)()


def dies() -> None:
    from ray.exceptions import WorkerCrashedError

    raise WorkerCrashedError


def raises(error: Exception) -> Callable[[], None]:
    """A driver that raised this."""
    from ray.exceptions import RayTaskError

    def call() -> None:
        raise RayTaskError("_drive", "", error)  # type: ignore[no-untyped-call]

    return call


def driven(
    monkeypatch: pytest.MonkeyPatch, run: tuple[Job, RunFolder], answers: Iterable[Callable[[], None]]
) -> tuple[driving.DriverSupervisor, Bundles]:
    """A driver with two actors whose starts end so, one after another."""
    bundles = Bundles(answers)
    monkeypatch.setattr(driving, "placement_group", bundles.reserve)
    monkeypatch.setattr(driving, "remove_placement_group", bundles.release)
    monkeypatch.setattr(driving, "PlacementGroupSchedulingStrategy", lambda group, bundle: None)
    monkeypatch.setattr(driving, "_drive", bundles)
    monkeypatch.setattr("ray.get", bundles.answer)
    supervisor = driving.DriverSupervisor(*run, run[1].path / "ray", {"CPU": 1.0}, ActorShare(2, 0.5))
    supervisor.run()
    assert bundles.open == 0
    assert bundles.bundles == [{"CPU": 1.0}, {"CPU": 0.5}, {"CPU": 0.5}]
    return supervisor, bundles


def test_a_driver_that_is_lost_is_started_again_in_room_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, folder = run_of(tmp_path, restarts=2)
    ends = [dies, raises(WorkerDiedError("worker 1: its node died")), lambda: None]
    supervisor, bundles = driven(monkeypatch, (job, folder), ends)
    assert supervisor.error is None
    assert bundles.reserved == 3
    assert said(folder) == [
        "the driver died; going on from the start, restart 1 of 2",
        "worker 1: its node died; going on from the start, restart 2 of 2",
    ]


def test_a_driver_is_not_started_again_for_ever_nor_after_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, folder = run_of(tmp_path, restarts=1)
    supervisor, bundles = driven(monkeypatch, (job, folder), [dies] * 2)
    assert str(supervisor.error) == (
        "the driver died; 1 restart since the start did not help; "
        f"`footplate resume {folder.argument}` goes on from the start"
    )
    assert bundles.reserved == 2
    mistake = TrainingError("worker 1: its process died once too often")
    supervisor, bundles = driven(monkeypatch, (job, folder), [raises(mistake)])
    assert supervisor.error is mistake
    assert bundles.reserved == 1


def test_a_driver_that_is_lost_while_it_stops_is_left_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, folder = run_of(tmp_path, restarts=3)
    asked: list[driving.DriverSupervisor] = []
    start = driving.DriverSupervisor._drive

    def stopping(self: driving.DriverSupervisor, group: Any) -> str | None:
        asked.append(self)
        self.ask_to_stop("interrupted")
        return start(self, group)

    monkeypatch.setattr(driving.DriverSupervisor, "_drive", stopping)
    supervisor, bundles = driven(monkeypatch, (job, folder), [dies])
    assert supervisor.error is None
    assert (bundles.reserved, said(folder)) == (1, ["the driver died while the run was stopping"])


def test_how_an_actor_was_lost_is_told_in_a_line() -> None:
    from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError

    from footplate_cluster.actors import _pass_on

    losses = [
        (RayActorError(error_msg="The actor died because its node has died. Node Id: 7f"), "its node died"),
        (RayActorError(error_msg="Worker unexpectedly exits with a connection error code 2."), "its process died"),
        (OutOfMemoryError("low"), "its process died"),
        (ActorUnavailableError("no route", None), "it cannot be reached"),
    ]
    for problem, told in losses:
        asked, answer = Future[Any](), Future[Any]()
        asked.set_exception(problem)
        _pass_on(3, asked, answer, UsageOfWorkers())
        death = answer.exception()
        assert isinstance(death, WorkerDiedError)
        assert str(death) == f"worker 3: {told}; {ADVICE}"
