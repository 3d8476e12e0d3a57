"""On several machines (raylets) a run takes in those that come and lets go those that leave, and fails in a line."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from footplate.errors import TrainingError
from footplate.folder import RunFolder, create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate.pool import WorkerDiedError
from footplate.tracking.log_file import without_stamp
from footplate.tracking.metrics_file import read_rows

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.machines]

TASK = Path(__file__).with_name("held_task.py")
HOST = socket.gethostname()
PATIENCE = 300.0
MEMORY = 80_000_000


@pytest.fixture(scope="module")
def cluster() -> "Iterator[Cluster]":
    """A head that holds no worker, and two machines with room for one each."""
    import footplate_cluster.connection  # noqa: F401 - what Ray reads when it is imported  # isort: skip
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY},
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


class Run(threading.Thread):
    """A launch in a thread: only the main thread may add machines."""

    def __init__(self, runs: Path, name: str, *overrides: str) -> None:
        super().__init__(daemon=True)
        recipe = runs / "recipe.yaml"
        recipe.write_text(f"task: {TASK}\nthreads: 1\nsave: {{every_updates: 10}}\nprecision: fp64\non: ray\n")
        self.job = load_job(recipe, overrides)
        self.folder = create_run(runs, name, "held")
        self.folder.write_job(self.job.to_yaml())
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            launch(self.job, self.folder)
        except BaseException as error:
            self.error = error

    def reaches(self, update: int) -> None:
        """Return when so many updates are in the metrics."""
        self.waits_until(
            lambda: self.folder.metrics.exists() and self.folder.metrics.read_bytes().count(b"\n") >= update
        )

    def says(self, text: str) -> None:
        """Return when the log has the line."""
        self.waits_until(lambda: text in self.lines())

    def waits_until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.is_alive(), (self.error, self.lines())
            assert time.monotonic() < end, self.lines()
            time.sleep(0.05)

    def goes_on(self, update: int) -> None:
        (self.folder.path / f"go-{update}").touch()

    def ends(self) -> RunFolder:
        self.join(PATIENCE)
        assert not self.is_alive(), self.lines()
        if self.error is not None:
            raise self.error
        return self.folder

    def lines(self) -> list[str]:
        if not self.folder.log.exists():
            return []
        return [without_stamp(line) for line in self.folder.log.read_text().splitlines()]


def test_a_run_takes_in_a_machine_and_lets_one_go_before_it_leaves(
    cluster: "Cluster", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("footplate_cluster.supervision.SECONDS_BEFORE_GROWING", 0.0)
    here = Run(tmp_path, "here", "on=here")
    here.start()
    here.ends()

    cluster.remove_node(list(cluster.worker_nodes)[-1], allow_graceful=False)
    run = Run(tmp_path, "elastic", "resources.workers=1:2", "hold_before=[14, 27]")
    run.start()
    run.says("starting with 1 of up to 2 workers: the cluster has no room for more now")
    run.reaches(13)
    newcomer = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    run.waits_until(lambda: (run.folder.path / "stop").exists())
    run.goes_on(14)
    run.says("stopping after update 14: the cluster has room for more workers")
    run.says(
        "going on from update 14 with 2 workers instead of 1: "
        "the same samples in the same order, the weights equal to rounding"
    )
    run.reaches(26)
    announce_the_end_of(cluster, newcomer)
    run.waits_until(lambda: (run.folder.path / "stop").exists())
    run.goes_on(27)
    run.says(f"stopping after update 27: {HOST} is about to be taken away")
    run.says(
        "going on from update 27 with 1 worker instead of 2: "
        "the same samples in the same order, the weights equal to rounding"
    )
    run.ends()
    assert [row["update"] for row in read_rows(run.folder.metrics)] == list(range(1, 41))
    assert not any("restart" in line for line in run.lines())
    there, gone_through = (load_file(each.folder.checkpoints / "000040/line.safetensors") for each in (here, run))
    torch.testing.assert_close(gone_through, there, rtol=1e-9, atol=1e-12)
    cluster.remove_node(newcomer, allow_graceful=False)
    cluster.add_node(num_cpus=1, object_store_memory=MEMORY)  # what follows has two machines that stay


@pytest.mark.parametrize(
    ("meets", "message"),
    [
        (
            "silence",
            f"worker 1 on {HOST} did not answer for 8 seconds; no restarts are allowed (faults.restarts); "
            "`footplate resume RUN` goes on from update 10",
        ),
        (
            "lack of memory",
            f"worker 1 on {HOST}: memory: the job needs more than there is; make the model, its batches or the beam "
            "smaller, or set update.accumulate",
        ),
        (
            "a mistake",
            f"worker 1 on {HOST}: ValueError: the line broke (held_task.py, line 62); "
            "mend it, then `footplate resume RUN` goes on",
        ),
    ],
)
def test_what_one_worker_meets_ends_the_run_of_all_with_a_line_that_names_it(
    cluster: "Cluster", tmp_path: Path, meets: str, message: str
) -> None:
    run = Run(tmp_path, "run", "resources.workers=2", f"meets={meets}", "faults={restarts: 0, timeout_seconds: 8}")
    run.start()
    with pytest.raises(TrainingError) as raised:
        run.ends()
    assert str(raised.value) == message.replace("RUN", run.folder.argument)
    assert run.folder.read_status()["state"] == "failed"
    assert any("ValueError: the line broke" in line for line in run.lines()) == (meets == "a mistake")


def test_an_actor_whose_machine_is_lost_is_made_anew_on_the_next_one(cluster: "Cluster") -> None:
    from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

    from footplate_cluster.actors import RayPool

    class Echo:
        """Made here, so that it travels with the call: no machine can import this file."""

        def say(self, word: str) -> str:
            return word

        def close(self) -> None: ...

    group = placement_group([{"CPU": 1}] * 2, strategy="SPREAD")
    assert group.wait(PATIENCE)
    with closing(RayPool(Echo, [(), ()], group, 1.0, 0)) as pool:
        assert [pool.submit(worker, "say", "here").result(PATIENCE) for worker in (0, 1)] == ["here"] * 2
        place = placement_group_table(group)["bundles_to_node_id"][1]
        cluster.remove_node(next(node for node in cluster.worker_nodes if node.node_id == place), allow_graceful=False)
        end = time.monotonic() + PATIENCE
        while (death := pool.submit(1, "say", "anybody?").exception(PATIENCE)) is None:  # its process lives on a moment
            assert time.monotonic() < end
            time.sleep(0.1)
        assert isinstance(death, WorkerDiedError)
        # Who asks at once may do so before Ray knows more.
        assert death.what in ("worker 1: its node died", "worker 1: it cannot be reached")
        pool.replace(1)
        answer = pool.submit(1, "say", "again")
        assert pool.submit(0, "say", "still").result(PATIENCE) == "still"
        assert not answer.done()
        cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        assert answer.result(PATIENCE) == "again"
    remove_placement_group(group)


def announce_the_end_of(cluster: "Cluster", node: Any) -> None:
    """What a cloud's notice of preemption, or KubeRay, tells Ray: no new work for this machine, it will go."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    accepted, reason = GcsClient(address=cluster.address).drain_node(
        node.node_id,
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "notice of preemption",
        int((time.time() + 600) * 1000),
    )
    assert accepted, reason
