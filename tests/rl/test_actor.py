"""The actor: groups change nothing but rounding, and `lag: 1` is a schedule, not a race."""

import subprocess
import sys
import threading
from contextlib import ExitStack, closing
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, distributed, nn

from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.context import Context
from footplate.errors import FootplateError, TrainingError
from footplate.step import Step
from footplate.update import Update
from footplate_rl.actor import Actor
from footplate_rl.distributions import Categorical
from footplate_rl.groups import open_groups
from footplate_rl.losses import ActorCriticLoss
from footplate_rl.networks import build_network
from footplate_rl.paac import Config, train
from footplate_rl.rollout import Rollout

SMALL = {
    "environment": {"kind": "gymnasium", "id": "CartPole-v1"},
    "environments": 4,
    "rollout_steps": 5,
    "steps": 4 * 5 * 12,
    "network": {"kind": "mlp", "hidden": [16]},
    "optimizer": {"kind": "adam", "learning_rate": 0.03},
    "update": {"clip_norm": 0.5},
    "reset_every_updates": 4,
    "evaluate": {"every_updates": 8, "episodes": 3, "environments": 2},
}
PONG = {"environment": {"kind": "atari", "game": "pong"}, "network": {"kind": "nips"}, "steps": 4 * 5 * 4}


def config_of(**changes: Any) -> Config:
    return Config.model_validate(SMALL | changes, strict=False)


def updates(config: Config, context: Context) -> list[Step]:
    return [step for step in train(config, context) if step.activity is None]


def weights(step: Step) -> dict[str, Tensor]:
    assert step.state is not None
    return {name: tensor.clone() for name, tensor in step.state["model"].state_dict().items()}


def reference(config: Config, context: Context) -> dict[str, Tensor]:
    """`lag: 1` by the book, in one thread: rollout k is played with the parameters of k - 1 updates, or of k after a
    reset, and update k + 1 is computed from it."""
    with ExitStack() as stack:
        (group,) = stack.enter_context(open_groups(config.environment, slice(0, config.environments), 1, context.seed))
        spaces = group.environments.observation_space, group.environments.action_space
        context.seed_torch("initialise")
        network = context.place(build_network(config.network, *spaces))
        loss = ActorCriticLoss(network, Categorical(2), config.value_weight, config.entropy_weight)
        update = Update(loss, config.optimizer, config.schedule, config.update, context, updates=config.updates)
        newest = deepcopy(network)
        for number in range(config.updates):
            before, newest = newest, deepcopy(network)
            is_fresh = number % config.reset_every_updates == 0
            if is_fresh:
                group.reset(number)
            rollout = Rollout(config.rollout_steps, config.environments, spaces[0], Categorical(2), context)
            uniforms_TN = context.stream("act", number).random((config.rollout_steps, config.environments))
            rollout.collect(newest if is_fresh else before, [group], uniforms_TN)
            returns_TN = rollout.returns(config.discount, config.reward_clip, config.reward_scale)
            update(list(rollout.microbatches(returns_TN, config.update.accumulate)))
    return dict(network.state_dict())


def test_a_lag_of_1_is_what_one_thread_computes_on_the_same_schedule() -> None:
    config = config_of(lag=1)
    expected = reference(config, Context())
    found = weights(updates(config, Context())[-1])
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    without = weights(updates(config_of(), Context())[-1])
    assert not torch.equal(without["policy.weight"], expected["policy.weight"])


def test_only_an_actor_that_plays_ahead_has_memory_for_a_second_rollout() -> None:
    config, share = config_of(), slice(0, 4)
    with (
        open_groups(config.environment, share, 1, 1) as groups,
        closing(Actor(groups, 5, 4, share, 1, Context())) as actor,
    ):
        spaces = groups[0].environments.observation_space, groups[0].environments.action_space
        network = build_network(config.network, *spaces)
        actor.reset(0)
        first = actor.rollout(network, 0)
        assert actor.rollout(network, 1) is first
        actor.start(network, 2)
        second = actor.rollout(network, 2)
        actor.start(network, 3)
        assert second is not first
        assert actor.rollout(network, 3) is first


def test_a_lag_where_every_rollout_starts_anew_is_refused() -> None:
    with pytest.raises(ValidationError) as error:
        config_of(reset_every_updates=1, lag=1)
    assert error.value.errors()[0]["msg"] == (
        "Value error, lag: 1 does nothing where environments start anew after every update; "
        "set reset_every_updates above 1 or leave it out"
    )


@pytest.mark.parametrize("stop", [4, 8])
@pytest.mark.parametrize("changes", [{"lag": 1}, {"groups": 2}, {"lag": 1, "groups": 3}])
def test_a_resumed_run_ends_with_the_same_bytes(stop: int, changes: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(**changes)
    store = CheckpointStore(tmp_path)
    straight: list[Step] = []
    for step in train(config, Context()):
        if step.activity is None:
            straight.append(step)
            if step.update == stop:
                assert step.state is not None
                store.save(step.update, step.state)
                store.wait()
    store.close()
    (folder,) = tmp_path.iterdir()
    resumed = updates(config, Context(checkpoint=Checkpoint(folder)))
    assert [step.metrics for step in resumed] == [step.metrics for step in straight[stop:]]
    for name, tensor in weights(straight[-1]).items():
        assert torch.equal(weights(resumed[-1])[name], tensor)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("groups", [2, 3, 4])
def test_groups_change_nothing_but_rounding(groups: int, lag: int) -> None:
    """In three groups of four environments one has two."""
    context = Context(precision="fp64")
    whole, cut = (updates(config_of(groups=count, lag=lag), context)[-1] for count in (1, groups))
    assert whole.metrics["rollout/return"] == cut.metrics["rollout/return"]
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], tensor, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, 1])
def test_groups_of_emulators_beside_each_other_play_the_same_twice(lag: int) -> None:
    config = config_of(**PONG, groups=2, lag=lag, evaluate={"every_updates": 8, "episodes": 1, "environments": 1})
    first, again = (weights(next(step for step in train(config, Context()) if step.state)) for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(again[name], tensor)


def test_more_groups_than_environments_are_refused() -> None:
    with pytest.raises(ValidationError) as error:
        config_of(groups=5)
    assert error.value.errors()[0]["msg"] == (
        "Value error, groups: 4 environments can't be cut into 5 groups; use at most 4"
    )
    with pytest.raises(FootplateError) as refused:
        next(train(config_of(groups=3), Context(ranks=2)))
    assert str(refused.value) == "groups: 2 environments of a worker can't be cut into 3 groups; use at most 2"


@pytest.mark.parametrize("groups", [1, 2])
def test_what_fails_beside_the_learner_ends_the_training_with_its_own_message(
    groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environments break at their third step: in the second rollout of two, which is played during update 1."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    broken = {"kind": "own", "name": "broken_environments.Misbehaving", "arguments": {"what": "raise"}}
    training = train(config_of(environment=broken, rollout_steps=2, steps=80, lag=1, groups=groups), Context())
    assert next(training).update == 1
    with pytest.raises(TrainingError, match=r"^environment 0: step raised ZeroDivisionError: it broke "):
        next(training)


def test_a_run_that_is_closed_in_between_leaves_no_thread_behind() -> None:
    def actors() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("actor")]

    training = train(config_of(lag=1), Context())
    next(training)
    assert actors()
    training.close()  # type: ignore[attr-defined]
    assert actors() == []


class Counting(nn.Module):
    """Always takes action 0; its values are how many threads torch has where it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        logits_MA = torch.tensor([100.0, -100.0]).expand(len(observations), 2)
        return logits_MA, torch.full((len(observations),), float(torch.get_num_threads()))


def test_acting_has_its_own_number_of_threads_and_learning_keeps_its() -> None:
    network: Any = Counting()
    environment, share = config_of().environment, slice(0, 2)
    with (
        open_groups(environment, share, 1, seed=1) as groups,
        closing(Actor(groups, 3, 2, share, 2, Context())) as actor,
    ):
        actor.reset(0)
        here = actor.rollout(network, 0).values_SN.unique().tolist()
        assert torch.get_num_threads() == 1
        actor.start(network, 1)
        beside = actor.rollout(network, 1).values_SN.unique().tolist()
    assert here == beside == [2.0]
    assert torch.get_num_threads() == 1


def one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    meeting, patience = f"file://{folder}/meeting", timedelta(minutes=2)
    distributed.init_process_group("gloo", init_method=meeting, timeout=patience, rank=rank, world_size=2)
    context = Context(rank=rank, ranks=2, precision="fp64")
    torch.save(weights(updates(config_of(lag=1, groups=2), context)[-1]), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_that_lag_equal_one(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    alone = weights(updates(config_of(lag=1), Context(precision="fp64"))[-1])
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, tensor in alone.items():
            torch.testing.assert_close(shared[name], tensor, rtol=1e-9, atol=1e-12)


if __name__ == "__main__":
    one_of_two(int(sys.argv[1]), Path(sys.argv[2]))
