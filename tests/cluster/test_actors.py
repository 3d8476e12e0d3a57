"""On Ray the workers of a pool are actors: the same agents, the same arithmetic, and one that is killed is replaced."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from footplate.context import Context
from footplate.errors import FootplateError, TrainingError
from footplate.faults import LostWorkerError
from footplate.folder import RunFolder, create_run
from footplate.job import Job, load_job
from footplate.launch import launch
from footplate.optimizers import RmsProp
from footplate.pool import WorkerDiedError
from footplate.shared_parameters import SharedParameters
from footplate.step import Latest, Step
from footplate.tasks import load_task

WORKERS = Path(__file__).parents[1] / "platform"
sys.path.append(str(WORKERS))

from pool_workers import Counter, assert_that_one_computed  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ADVICE = "mend it, and `footplate resume` goes on from the last checkpoint"
A3C = [
    "environments=4",
    "rollout_steps=5",
    "steps=800",
    "reset_every_updates=20",
    "evaluate.every_updates=40",
    "evaluate.episodes=4",
    "save.every_updates=20",
]
APEX = [
    "steps=700",
    "learning_starts_steps=300",
    "batch_size=16",
    "reset_every_updates=50",
    "evaluate.every_updates=100",
    "evaluate.episodes=4",
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    from footplate_cluster.connection import connected

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(WORKERS), prepend=os.pathsep)
        with connected(None):
            yield


@pytest.fixture(scope="module")
def group(cluster: None) -> Iterator[Any]:
    from ray.util.placement_group import placement_group, remove_placement_group

    bundles = placement_group([{"CPU": 0.1}] * 5)  # 0.5 of two cores: what is launched beside it gets the rest
    assert bundles.wait(60)
    yield bundles
    remove_placement_group(bundles)


def opened(group: Any, make: Any, arguments: Any) -> Any:
    from footplate_cluster.actors import RayPool

    return RayPool(make, arguments, group, 0.1, 1)


def test_actors_keep_their_state_answer_in_order_and_rest_after_a_pause(group: Any) -> None:
    with closing(opened(group, Counter, [(0,), (100,)])) as pool:
        futures = [pool.submit(worker, "add", amount) for amount in (1, 2, -3) for worker in (0, 1)]
        futures += [pool.submit(worker, "nap", 0.1) for worker in (0, 1)]
        pool.pause()
        assert all(future.done() for future in futures)
        assert [future.result() for future in futures] == [1, 101, 3, 103, 0, 100, 0, 100]
        assert pool.submit(0, "settings").result()[0] == 1
        assert len(pool.usage()) == 4
        pool.submit(1, "compute", 0.2).result()
        assert_that_one_computed(pool.usage())
        assert pool.usage() == {}


def test_what_goes_wrong_in_an_actor_is_one_line(group: Any) -> None:
    with closing(opened(group, Counter, [(0,), (-1,)])) as pool:
        assert str(pool.submit(0, "complain").exception()) == "environment 3: it is broken; mend it"
        assert str(pool.submit(0, "divide").exception()).startswith(
            "worker 0: ZeroDivisionError: division by zero (pool_workers.py, line "
        )
        unmade = pool.submit(1, "add", 1).exception()
        assert isinstance(unmade, TrainingError)
        assert str(unmade).startswith("worker 1: ValueError: no such start (pool_workers.py, line ")


def test_an_actor_that_is_killed_is_made_anew(group: Any) -> None:
    with closing(opened(group, Counter, [(7,)])) as pool:
        assert pool.submit(0, "add", 1).result() == 8
        calls = [pool.submit(0, "die"), pool.submit(0, "add", 1)]
        for call in calls:
            assert isinstance(call.exception(), WorkerDiedError)
            assert str(call.exception()) == f"worker 0: its process died; {ADVICE}"
        pool.replace(0)
        assert pool.submit(0, "add", 1).result() == 8


class Double:
    """The same things done to shared memory and to the parameter actor."""

    def __init__(self, group: Any) -> None:
        from footplate_cluster.parameters import RayParameters

        optimizer = RmsProp(kind="rmsprop", learning_rate=1.0, momentum=0.5, epsilon_inside_root=True)
        torch.manual_seed(1)
        first = nn.Linear(3, 2)
        second = nn.Linear(3, 2)
        second.load_state_dict(first.state_dict())
        self.both: tuple[Any, Any] = SharedParameters(first, optimizer), RayParameters(second, optimizer, group)

    def each(self, call: Callable[[Any], Any]) -> Any:
        here, there = (call(one) for one in self.both)
        assert here == there
        return here

    def pulled(self) -> list[Tensor]:
        here, there = ([torch.zeros(2, 3), torch.zeros(2)] for _ in range(2))
        for parameters, into in zip(self.both, (here, there), strict=True):
            parameters.pull(into)
        for one, other in zip(here, there, strict=True):
            assert torch.equal(one, other)
        return here


def test_the_parameter_actor_reckons_as_shared_memory_does_to_the_last_bit(group: Any) -> None:
    double, draw = Double(group), torch.Generator().manual_seed(2)
    for number in range(5):
        gradients = [torch.randn(shape, generator=draw) for shape in ((2, 3), (2,))]
        assert double.each(lambda one, pushed=gradients: one.push(pushed, 0.1)) == number
        double.pulled()
    state = double.both[0].state_dict()
    again = double.both[1].state_dict()
    assert again["version"] == state["version"] == 5
    for one, other in zip(state["slots"], again["slots"], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    before = double.pulled()
    assert not torch.equal(next(double.both[1].module.parameters()), before[0])
    double.both[1].refresh()
    assert torch.equal(next(double.both[1].module.parameters()), before[0])
    double.each(lambda one: one.put([torch.ones(2, 3), torch.ones(2)]))
    assert double.each(lambda one: one.pull(before, 6)) == 6
    assert before[0].mean() != 1  # nothing newer to copy
    double.each(lambda one: one.publish())
    double.both[0].load_state_dict(state)
    double.both[1].load_state_dict(state)


def train(tmp_path: Path, name: str, recipe: str, *overrides: str) -> RunFolder:
    job = load_job(recipe, ["threads=1", *overrides])
    folder = create_run(tmp_path, name, recipe)
    folder.job.write_text(job.to_yaml())
    launch(job, folder)
    return folder


def test_one_actor_gives_the_same_bytes_as_this_thread_and_resumes_to_them(cluster: None, tmp_path: Path) -> None:
    """The whole way: a driver and its actor in one placement group, a parameter actor, checkpoints from both."""
    here = train(tmp_path, "here", "catch-a3c", *A3C, "workers=1", "processes=false")
    there = train(tmp_path, "there", "catch-a3c", *A3C, "workers=1", "on=ray", "resources.cpus_per_actor=0.5")
    for update in ("000020", "000040"):
        for file in ("model.safetensors", "learner.pt"):
            saved = [(one.checkpoints / update / file).read_bytes() for one in (here, there)]
            assert saved[0] == saved[1], (update, file)
    before = (there.checkpoints / "000040" / "model.safetensors").read_bytes()
    (there.checkpoints / "000040").rename(tmp_path / "away")
    launch(load_job(there.job), there)
    assert (there.checkpoints / "000040" / "model.safetensors").read_bytes() == before


def steps_of(job: Job, group: Any, kills: dict[int, int]) -> list[Step]:
    """Train with this process as the driver, and kill a worker of the pool behind some updates."""
    import ray

    from footplate_cluster.actors import RayPool
    from footplate_cluster.parameters import RayParameters

    pools: list[RayPool] = []

    def open_pool(make: Any, arguments: Any, *, processes: bool) -> RayPool:
        assert processes
        pools.append(RayPool(make, arguments, group, 0.1, 1))
        return pools[-1]

    context = Context(pool=open_pool, share=partial(RayParameters, group=group))
    steps = []
    for step in load_task(job.task).train(job.config, context):
        if step.activity is None:
            steps.append(step)
            if step.update in kills:
                ray.kill(pools[0]._hosts[kills[step.update]])
    return steps


@pytest.mark.parametrize(
    ("recipe", "overrides", "kills", "updates"),
    [
        ("catch-a3c", [*A3C, "steps=2400"], {20: 1}, 120),
        ("catch-apex", APEX, {20: 0, 70: 2}, 100),  # an actor, then the only shard
    ],
)
def test_an_agent_whose_actors_are_killed_trains_on(
    group: Any, recipe: str, overrides: list[str], kills: dict[int, int], updates: int, caplog: Any
) -> None:
    with caplog.at_level(logging.INFO, "footplate"):
        steps = steps_of(load_job(recipe, overrides), group, kills)
    assert steps[-1].update == updates
    metric = steps[-1].metrics["train/replaced_workers"]
    assert isinstance(metric, Latest)
    assert metric.value == len(kills)
    told = {name.split("/")[1] for step in steps for name in step.metrics if name.startswith("system/")}
    assert told == {"actor-0", "actor-1", "parameters" if recipe == "catch-a3c" else "actor-2"}
    for count, worker in enumerate(kills.values(), 1):
        assert f"worker {worker}: its process died; replaced, {count} of at most 10" in caplog.messages


def test_a_dead_parameter_actor_is_a_loss_and_no_mistake(group: Any) -> None:
    import ray

    double = Double(group)
    ray.kill(double.both[1]._keeper)
    with pytest.raises(LostWorkerError) as error:
        double.both[1].publish()
    assert str(error.value) == "the actor that held the parameters died"


def test_what_the_cluster_does_not_have_for_actors_is_refused_at_once(cluster: None, tmp_path: Path) -> None:
    import ray

    total = ray.cluster_resources()["CPU"]
    with pytest.raises(FootplateError) as error:
        train(tmp_path, "greedy", "catch-a3c", *A3C, "on=ray", "resources.cpus_per_actor=64")
    assert str(error.value) == (
        "resources: 1 CPU for the task and 2 x 64 CPU for its actors are needed, and the cluster has "
        f"{total:g} CPU; ask for less with resources.cpus_per_actor, for fewer, or let it grow with --wait"
    )
    with pytest.raises(FootplateError) as error:
        train(tmp_path, "alone", "catch-a3c", *A3C, "on=ray", "processes=false", "resources.cpus_per_actor=1")
    assert str(error.value) == (
        "resources.cpus_per_actor: 1 is for the actors of a task, and this job has none; leave it out"
    )
