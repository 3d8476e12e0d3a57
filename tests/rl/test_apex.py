"""Ape-X: what its parts do by hand, the algorithm beside a naive one, the limit, and what happens when workers die."""

import multiprocessing
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from footplate import pool as footplate_pool
from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.context import Context
from footplate.errors import FootplateError, TrainingError
from footplate.job import load_job
from footplate.pool import Pool, ThisThread, WorkerDiedError
from footplate.step import Latest, Mean, Step
from footplate.update import Update
from footplate_rl.apex import Config, actors, evaluate, train
from footplate_rl.distributed import flow
from footplate_rl.distributed.actor import Actor
from footplate_rl.environments import make_environments
from footplate_rl.exploration import Ladder
from footplate_rl.explorer import Explorer
from footplate_rl.q_learning import ReplayLoss
from footplate_rl.replay.replay import Replay
from footplate_rl.value_learning import beta_at, empty_replay, epsilon_greedy, lessons_of, value_network

CATCH = {"kind": "gymnasium", "id": "footplate/Catch-v0"}
SMALL: dict[str, Any] = {
    "environment": CATCH,
    "actors": 4,
    "environments": 2,
    "shards": 2,
    "processes": False,
    "rollout_steps": 5,
    "learning_starts_steps": 60,
    "steps": 60 + 96,
    "samples_per_insert": 2.0,
    "batch_size": 8,
    "replay": {"kind": "proportional", "transitions": 120},
    "network": {"kind": "mlp", "hidden": [16]},
    "target": {"kind": "hard", "every_updates": 5},
    "weights_every_updates": 3,
    "reset_every_updates": 8,
    "evaluate": {"every_updates": 16, "episodes": 3, "environments": 2},
}


def config_of(**changes: Any) -> Config:
    return Config.model_validate(SMALL | changes, strict=False)


def updates(config: Config, context: Context) -> Iterator[Step]:
    return (step for step in train(config, context) if step.activity is None)


def weights(step: Step) -> dict[str, Tensor]:
    assert step.state is not None
    return {name: tensor.clone() for name, tensor in step.state["model"].state_dict().items()}  # type: ignore[union-attr]


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as error:
        config_of(**changes)
    return error.value.errors()[0]["msg"].removeprefix("Value error, ")


def test_the_rates_of_the_ladder_worked_by_hand() -> None:
    """0.4^(1 + 7 i / 3) for four players; one alone has the first rate."""
    assert Ladder().rates(4) == pytest.approx([0.4, 0.4 ** (10 / 3), 0.4 ** (17 / 3), 0.4**8])
    assert Ladder().rates(4)[3] == pytest.approx(0.00065536)
    assert Ladder().rates(1).tolist() == [0.4]


def test_actors_share_the_ladder_and_each_environment_stands_on_its_own_step() -> None:
    config = config_of()
    steps = [Actor(config, index, 1, "fp32")._policy.sampler.epsilon_N for index in range(4)]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.concatenate(steps), Ladder().rates(8))


class Buffer:
    """What was played and is not stored yet."""

    def __init__(self) -> None:
        self.played: list[Any] = []

    def add(self, *played: Any) -> None:
        self.played.append(played)

    def cut(self, observations_NO: Any) -> None:
        self.played.append(observations_NO)


def store(buffer: Buffer, replay: Replay, network: Any) -> None:
    """The windows that become whole get the errors of the network that played."""
    rows_B = np.concatenate([replay.add(*one) if isinstance(one, tuple) else replay.cut(one) for one in buffer.played])
    buffer.played.clear()
    batch = replay.windows(rows_B, np.ones(len(rows_B)))
    with torch.no_grad():
        following_B = network(torch.from_numpy(batch.next_observations_BO))[0].amax(dim=1).numpy()
        values_BA = network(torch.from_numpy(batch.observations_BO))[0].numpy()
    targets_B = batch.returns_B + batch.bootstraps_B * following_B
    replay.update(rows_B, np.abs(targets_B - values_BA[np.arange(len(rows_B)), batch.actions_B]))


def by_the_book(config: Config, context: Context) -> dict[str, Tensor]:
    """One actor, one shard, no batch ahead: a loop over one replay. A rollout is stored before the next is played."""
    with closing(make_environments(config.environment, config.environments, seed=context.seed)) as environments:
        spaces = environments.observation_space, environments.action_space
        context.seed_torch("initialise")
        network = value_network(config, *spaces, context)
        target, playing = deepcopy(network).requires_grad_(False), deepcopy(network)
        loss = ReplayLoss(network, config.huber)
        update = Update(loss, config.optimizer, config.schedule, config.update, context, updates=config.updates)
        replay, buffer = empty_replay(config, config.replay, *spaces, config.environments), Buffer()
        policy = epsilon_greedy(playing, spaces[1], config.exploration.rates(config.environments), context)
        explorer = Explorer(environments, policy, buffer, config.reward_clip)
        size, lead = config.rollout_steps * config.environments, config.lead_transitions
        ratio = config.samples_per_insert
        learnable, rollouts, drawn = -config.learning_starts_steps, 0, 0
        newest = deepcopy(network)
        while update.number < config.updates:
            if update.number % config.reset_every_updates == 0:
                newest.load_state_dict(network.state_dict())
                explorer.reset(update.number)
            may_draw = False
            while not may_draw:
                if buffer.played:
                    store(buffer, replay, playing)
                    learnable += size
                if learnable < 0 or ratio * (learnable + size - lead) <= drawn:
                    playing.load_state_dict(newest.state_dict())
                    explorer.play(context.stream("act", rollouts).random((config.rollout_steps, config.environments)))
                    rollouts += 1
                may_draw = learnable >= 0 and drawn + config.batch_size <= ratio * (learnable + lead)
            drawn += config.batch_size
            beta = beta_at(config, update.number, config.updates)
            batch = replay.sample(config.batch_size, context.stream("replay", update.number), beta)
            loss.errors.clear()
            update(lessons_of(batch, target, network, config, context))
            replay.update(batch.rows_B, torch.cat(loss.errors).abs().numpy())
            config.target.follow(target, network, update.number)
            if update.number % config.weights_every_updates == 0:
                newest.load_state_dict(network.state_dict())
            if update.number % config.reset_every_updates == 0:
                if buffer.played:
                    store(buffer, replay, playing)
                    learnable += size
                explorer.cut()
                store(buffer, replay, playing)
    return dict(network.state_dict())


def test_one_actor_and_one_shard_are_a_plain_loop_over_one_replay() -> None:
    config = config_of(actors=1, shards=1, batches_ahead=0, lead_rollouts=1)
    context = Context(precision="fp64")
    expected = by_the_book(config, context)
    found = weights(list(updates(config, context))[-1])
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12)


class Watched(ThisThread):
    """A pool that writes down what it is asked for, and in which workers die where they are told to."""

    def __init__(self, make: Any, arguments: Any, deaths: Sequence[tuple[str, int, int]] = ()) -> None:
        super().__init__(make, arguments)
        self.asked: list[tuple[str, int]] = []
        self._deaths, self._dead = list(deaths), set[int]()

    def submit(self, worker: int, method: str, *arguments: Any) -> Future[Any]:
        self.asked.append((method, worker))
        if (method, worker, self.asked.count((method, worker))) in self._deaths:
            self._dead.add(worker)
        if worker in self._dead:
            future: Future[Any] = Future()
            future.set_exception(WorkerDiedError(f"worker {worker}: its process died (SIGKILL)"))
            return future
        return super().submit(worker, method, *arguments)

    def replace(self, worker: int) -> None:
        self._dead.discard(worker)
        self.asked.append(("replaced", worker))
        super().replace(worker)


def watched(config: Config, deaths: Sequence[tuple[str, int, int]] = ()) -> tuple[list[Step], list[tuple[str, int]]]:
    pools: list[Watched] = []

    def open_pool(make: Any, arguments: Any, *, processes: bool) -> Watched:
        pools.append(Watched(make, arguments, deaths))
        return pools[-1]

    steps = list(updates(config, Context(pool=open_pool)))
    return steps, pools[0].asked


@pytest.mark.parametrize("batches_ahead", [0, 2])
def test_the_limit_holds_learner_and_actors_in_step(batches_ahead: int) -> None:
    """After every call: 2 windows for each transition behind the first 60, give or take the lead of 2 x 40."""
    config = config_of(batches_ahead=batches_ahead, steps=60 + 400, replay={"kind": "rank", "transitions": 600})
    _, asked = watched(config)
    played = drawn = 0
    apart = []
    for method, _ in asked:
        played += 10 * (method == "play")
        drawn += 8 * (method == "draw")
        if drawn:
            apart.append(drawn - 2 * (played - 60))
    assert drawn == 8 * config.updates == 800
    assert -2 * 80 <= min(apart) < max(apart) <= 2 * 80
    assert played <= 460 + 80


class Late(Watched):
    """A pool of which these workers take a moment for what is named."""

    def __init__(self, make: Any, arguments: Any, late: Sequence[tuple[str, int]]) -> None:
        super().__init__(make, arguments)
        self._late = late

    def submit(self, worker: int, method: str, *arguments: Any) -> Future[Any]:
        future = super().submit(worker, method, *arguments)
        if (method, worker) not in self._late:
            return future
        late: Future[Any] = Future()
        Timer(0.05, late.set_result, [future.result()]).start()
        return late


def test_a_learner_that_waits_for_one_shard_sleeps_although_the_other_one_has_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[int] = []

    def counted(futures: Any, return_when: str) -> Any:
        waits.append(len(futures))
        return wait(futures, return_when=return_when)

    monkeypatch.setattr(flow, "wait", counted)
    steps = list(updates(config_of(), Context(pool=lambda *given, processes: Late(*given, [("draw", 4)]))))
    assert [step.update for step in steps] == list(range(1, 25))
    assert len(waits) < 200


def test_no_shard_is_learnt_from_before_all_together_hold_what_learning_starts_with() -> None:
    """Actors 1 and 3 are slow, and so shard 0 has its share of 60 transitions while shard 1 has none."""
    pools: list[Late] = []

    def open_pool(make: Any, arguments: Any, *, processes: bool) -> Late:
        pools.append(Late(make, arguments, [("play", 1), ("play", 3)]))
        return pools[-1]

    list(updates(config_of(lead_rollouts=6), Context(pool=open_pool)))
    before = pools[0].asked[: pools[0].asked.index(("draw", 4))]
    assert before.count(("add", 4)) * 10 > 30
    assert sum(method == "add" for method, _ in before) * 10 >= 60


def test_weights_go_to_each_actor_with_its_next_rollout_and_only_when_they_are_new() -> None:
    steps, _ = watched(config_of(weights_every_updates=1000))
    ages = [metric for step in steps if isinstance(metric := step.metrics["train/staleness"], Mean) and metric.count]
    assert max(float(age.total) / float(age.count) for age in ages) <= 8  # renewed where environments start anew
    assert sum(float(age.total) for age in ages) > 0


@pytest.mark.parametrize("kind", ["uniform", "proportional", "rank"])
@pytest.mark.parametrize("batches_ahead", [0, 2])
def test_a_run_in_this_thread_resumes_to_the_same_bytes(kind: str, batches_ahead: int, tmp_path: Path) -> None:
    """By then the rings of both shards have wrapped around."""
    config = config_of(replay={"kind": kind, "transitions": 120}, batches_ahead=batches_ahead)
    store = CheckpointStore(tmp_path, keep_last=9)
    straight: list[Step] = []
    for step in updates(config, Context()):
        straight.append(step)
        if step.state is not None:
            store.save(step.update, step.state)
    store.close()
    assert [step.update for step in straight if step.state is not None] == [8, 16, 24]
    for stop in (8, 16):
        resumed = list(updates(config, Context(checkpoint=Checkpoint(tmp_path / f"{stop:06d}"))))
        assert [step.metrics for step in resumed] == [step.metrics for step in straight[stop:]]
        for name, tensor in weights(straight[-1]).items():
            assert torch.equal(tensor, weights(resumed[-1])[name])
    *_, last = evaluate(config, Context(checkpoint=Checkpoint(tmp_path / "000024")))
    assert last.metrics["eval/length"] == 9


def replaced(steps: list[Step]) -> float:
    metric = steps[-1].metrics["train/replaced_workers"]
    assert isinstance(metric, Latest)
    return metric.value


@pytest.mark.parametrize("method", ["reset", "play", "cut"])
def test_an_actor_that_dies_is_replaced_and_its_episodes_end_where_it_was_last_seen(method: str) -> None:
    steps, asked = watched(config_of(), [(method, 1, 2)])
    assert [step.update for step in steps] == list(range(1, 25))
    assert replaced(steps) == 1
    after = asked[asked.index(("replaced", 1)) + 1 :]
    assert after[:2] == [("end", 5), ("reset", 1)]  # actor 1 fills shard 1, which is worker 4 + 1
    assert ("play", 1) in after


@pytest.mark.parametrize("method", ["add", "draw", "learnt"])
def test_a_shard_that_dies_starts_anew_empty_and_what_fills_it_starts_anew_too(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "footplate"):
        steps, asked = watched(config_of(), [(method, 4, 4)])
    assert [step.update for step in steps] == list(range(1, 25))
    assert replaced(steps) == 1
    assert caplog.messages == [
        "worker 4: its process died (SIGKILL); replaced, 1 of at most 10",
        "worker 4: was a shard of the replay; what it held is lost",
    ]
    after = asked[asked.index(("replaced", 4)) + 1 :]
    assert after[:2] == [("reset", 0), ("reset", 2)]
    assert ("draw", 5) in after[: after.index(("draw", 4))]  # the other one is learnt from until it is filled


def test_the_only_shard_is_filled_again_before_learning_goes_on() -> None:
    steps, asked = watched(config_of(shards=1), [("draw", 4, 7)])
    after = asked[asked.index(("replaced", 4)) + 1 :]
    assert after[: after.index(("draw", 4))].count(("add", 4)) >= 6  # 60 transitions, 10 a rollout
    assert [step.update for step in steps] == list(range(1, 25))


def test_more_deaths_than_are_replaced_end_the_run() -> None:
    with pytest.raises(TrainingError) as error:
        watched(config_of(replace_workers=1), [("play", 0, 2), ("play", 2, 3)])
    assert type(error.value) is TrainingError  # no loss, behind which a cluster would go on
    assert str(error.value) == (
        "worker 2: its process died (SIGKILL); mend it, and `footplate resume` goes on from the last checkpoint"
    )


@pytest.mark.slow
def test_processes_that_are_killed_are_replaced_and_the_run_goes_on() -> None:
    config = config_of(processes=True, actors=1, shards=1)
    pools: list[Any] = []

    def open_pool(*arguments: Any, processes: bool) -> Pool:
        pools.append(footplate_pool.open_pool(*arguments, processes=processes))
        return pools[-1]

    steps = []
    for step in updates(config, Context(pool=open_pool)):
        steps.append(step)
        if step.update in (2, 10):  # first the actor, then the shard
            pools[0]._processes[step.update == 10].kill()
    assert [step.update for step in steps] == list(range(1, 25))
    assert replaced(steps) == 2
    told = {name for step in steps for name in step.metrics if name.startswith("system/")}
    assert told == {f"system/actor-{worker}/{name}" for worker in (0, 1) for name in ("cores", "memory_gib")}
    assert multiprocessing.active_children() == []


def test_the_budget_pays_for_the_filling_and_so_many_windows_a_transition() -> None:
    assert config_of().updates == 24
    assert config_of(samples_per_insert=4.0).updates == 48
    assert actors(config_of()) == 0
    assert actors(config_of(processes=True)) == 6


def test_what_does_not_fit_together_is_refused() -> None:
    assert refusal(steps=63) == (
        "steps: 63 pays for no update: after learning_starts_steps, 60, a batch takes batch_size / samples_per_insert "
        "= 4 more; use at least as many"
    )
    assert refusal(shards=3) == (
        "shards: 4 actors can't fill 3 shards evenly, and each is drawn from as often; use a divisor of actors"
    )
    assert refusal(shards=8).startswith("shards: 4 actors can't fill 8 shards evenly")
    assert refusal(batch_size=100, steps=1000, samples_per_insert=1.0) == (
        "lead_rollouts: 2 lets the learner draw 80 windows ahead, less than batch_size: 100; use more, or a higher "
        "samples_per_insert"
    )
    assert refusal(environment=CATCH | {"processes": True}) == (
        "environment.processes: actors are processes that play their own environments; set it to false"
    )
    assert refusal(replay={"kind": "uniform", "transitions": 20}) == (
        "replay.transitions: 20 has 2 for each environment, and a window of n_step: 3 takes 5; use at least 40"
    )
    assert refusal(reset_every_updates=5) == (
        "evaluate.every_updates: 16 is no multiple of reset_every_updates: 5, and only there a policy can be saved; "
        "make it one"
    )


def test_a_shard_that_does_not_see_the_run_folder_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(FootplateError) as error:
        next(train(config_of(), Context(folder=tmp_path / "elsewhere")))
    assert str(error.value) == (
        f"{tmp_path / 'elsewhere'}: a shard of the replay on {socket.gethostname()} cannot see the run folder, into "
        "which it saves; use --runs on a shared disk"
    )


def test_several_learners_are_refused() -> None:
    with pytest.raises(FootplateError) as error:
        load_job("catch-apex", ["on=ray", "resources.workers=2"])
    assert str(error.value).endswith("resources.workers: 2 are ranks, and Ape-X has one learner; use 1, and actors=2")
