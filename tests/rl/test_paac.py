"""PAAC: what it counts, where it can stop, and that neither workers, microbatches nor autoreset modes change it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.context import Context
from footplate.errors import FootplateError
from footplate.job import load_job
from footplate.step import Mean, Step
from footplate_rl.actor import Actor
from footplate_rl.distributions import Categorical
from footplate_rl.groups import open_groups, own_rows
from footplate_rl.losses import ActorCriticLoss
from footplate_rl.networks import MLP, build_network
from footplate_rl.paac import Config, evaluate, train
from footplate_rl.rollout import Rollout

CATCH = {"kind": "gymnasium", "id": "footplate/Catch-v0"}
CARTPOLE = {"kind": "gymnasium", "id": "CartPole-v1"}
SMALL = {
    "environment": CATCH,
    "environments": 4,
    "rollout_steps": 5,
    "steps": 4 * 5 * 12,
    "network": {"kind": "mlp", "hidden": [16]},
    "reset_every_updates": 4,
    "evaluate": {"every_updates": 8, "episodes": 3, "environments": 2},
}


def config_of(**changes: Any) -> Config:
    return Config.model_validate(SMALL | changes, strict=False)


def updates(config: Config, context: Context) -> Iterator[Step]:
    return (step for step in train(config, context) if step.activity is None)


def weights(step: Step) -> dict[str, Tensor]:
    assert step.state is not None
    return {name: tensor.clone() for name, tensor in step.state["model"].state_dict().items()}


def test_the_budget_is_in_steps_of_all_environments() -> None:
    assert config_of(steps=4 * 5 * 12 + 19).updates == 12


def test_the_defaults_are_those_of_the_paper() -> None:
    config = Config.model_validate({"environment": {"kind": "atari", "game": "pong"}})
    assert (config.environments, config.rollout_steps, config.discount) == (32, 5, 0.99)
    assert config.optimizer.learning_rate == pytest.approx(0.0007 * config.environments)
    assert config.optimizer.kind == "rmsprop"
    assert (config.optimizer.decay, config.optimizer.epsilon, config.optimizer.epsilon_inside_root) == (0.99, 0.1, True)
    assert (config.entropy_weight, config.value_weight, config.update.clip_norm) == (0.01, 0.5, 40.0)
    assert (config.schedule.kind, config.network.kind, config.reward_clip) == ("linear", "nips", 1.0)


def test_a_budget_below_one_update_is_refused() -> None:
    with pytest.raises(ValidationError) as error:
        config_of(steps=19)
    assert error.value.errors()[0]["msg"] == (
        "Value error, steps: 19 pays for no update, each takes environments * rollout_steps = 20; use at least as many"
    )


def test_an_evaluation_where_nothing_can_be_saved_is_refused() -> None:
    with pytest.raises(ValidationError) as error:
        config_of(reset_every_updates=3)
    assert error.value.errors()[0]["msg"] == (
        "Value error, evaluate.every_updates: 8 is no multiple of reset_every_updates: 3, "
        "and only there a policy can be saved; make it one"
    )


def test_a_save_where_nothing_can_be_saved_is_refused() -> None:
    with pytest.raises(FootplateError) as error:
        load_job("catch-paac", ["save.every_updates=150"])
    assert str(error.value).endswith(
        "save.every_updates: 150 is no multiple of reset_every_updates: 200, and only there a run can be saved; "
        "make it one"
    )
    assert load_job("catch-paac", ["save.every_updates=400"]).save.every_updates == 400


@pytest.mark.parametrize(
    ("recipe", "overrides", "problem"),
    [
        ("catch-paac", ["resources.workers=1:4", "environments=16"],
         "environments: 16 can't be shared evenly by 3 workers, which resources.workers: 1:4 allows; use a multiple of "
         "12, or other workers"),
        ("catch-paac", ["resources.workers=2:3", "environments=10", "update.accumulate=2"],
         "environments: 10 can't be shared evenly by 2 or 3 workers, in 2 microbatches each, which resources.workers: "
         "2:3 allows; use a multiple of 12, or other workers"),
        ("catch-ppo", ["resources.workers=3", "environments=8"],
         "environments: 8 can't be shared evenly by 3 workers, which resources.workers: 3 allows; use a multiple of 3, "
         "or other workers"),
        ("catch-ppo", ["resources.workers=1:2", "environments=8", "groups=8"],
         "groups: 4 environments of each of 2 workers, which resources.workers: 1:2 allows, can't be cut into 8 "
         "groups; use at most 4"),
    ],
)  # fmt: skip
def test_workers_that_can_not_share_the_environments_are_refused_before_anything_starts(
    recipe: str, overrides: list[str], problem: str
) -> None:
    with pytest.raises(FootplateError) as error:
        load_job(recipe, ["on=ray", *overrides])
    assert str(error.value).endswith(problem)
    assert load_job(recipe, ["on=ray", "resources.workers=1:4", "environments=12"]).resources.most_workers == 4


def test_environments_that_can_not_be_shared_evenly_are_refused() -> None:
    with pytest.raises(FootplateError) as error:
        own_rows(10, 2, Context(ranks=3))
    assert str(error.value) == "environments: 10 can't be cut into 3 workers * 2 microbatches; use a multiple of 6"
    with pytest.raises(FootplateError) as error:
        own_rows(10, 1, Context(ranks=3))
    assert str(error.value) == "environments: 10 can't be cut into 3 workers * 1 microbatch; use a multiple of 3"
    with pytest.raises(FootplateError) as error:
        own_rows(30, 4, Context())
    assert str(error.value) == "environments: 30 can't be cut into 1 worker * 4 microbatches; use a multiple of 4"


def test_microbatches_that_can_not_be_even_are_refused_before_anything_starts() -> None:
    with pytest.raises(ValidationError) as error:
        config_of(environments=30, steps=1000, update={"accumulate": 4})
    assert error.value.errors()[0]["msg"] == (
        "Value error, environments: 30 can't be cut into update.accumulate: 4 microbatches; use a multiple of 4"
    )


def test_a_plateau_of_lower_returns_is_refused() -> None:
    with pytest.raises(ValidationError) as error:
        config_of(schedule={"kind": "plateau", "better": "lower"})
    assert error.value.errors()[0]["msg"] == (
        "Value error, schedule.better: lower does not suit eval/return, which a plateau watches here; leave it out"
    )


def test_a_plateau_drops_the_rate_where_evaluations_bring_nothing_better() -> None:
    """A chain pays every policy the same: the first evaluation, after update 4, is the best, and all others drop."""
    config = config_of(
        environment={"kind": "gymnasium", "id": "footplate/Chain-v0"},
        schedule={"kind": "plateau", "patience_evaluations": 1},
        optimizer={"kind": "sgd", "learning_rate": 0.25},
        evaluate={"every_updates": 4, "episodes": 1, "environments": 1},
        steps=4 * 5 * 16,
    )
    rates = [step.metrics["train/learning_rate"] for step in updates(config, Context())]
    assert rates == [0.25] * 8 + [0.125] * 4 + [0.0625] * 4


def test_there_is_one_step_an_update_and_state_where_environments_start_anew_or_the_run_ends() -> None:
    steps = list(updates(config_of(steps=4 * 5 * 11), Context()))
    assert [step.update for step in steps] == list(range(1, 12))
    assert [step.update for step in steps if step.state is not None] == [4, 8, 11]
    assert [step.update for step in steps if "eval/return" in step.metrics] == [8, 11]


def test_work_counts_steps_and_frames() -> None:
    step = next(updates(config_of(environment=CATCH | {"frame_skip": 2}), Context()))
    assert step.work == {"steps": 20, "frames": 40}


def test_what_is_no_transition_is_not_counted() -> None:
    """Episodes of Catch have 9 steps: in 20 rows every tenth is a reset, so 18 are transitions."""
    config = config_of(environment=CATCH | {"autoreset": "next_step"}, rollout_steps=20, steps=4 * 20)
    step = next(updates(config, Context()))
    assert step.work["steps"] == 4 * 18
    assert isinstance(step.metrics["train/entropy"], Mean)
    assert step.metrics["train/entropy"].count == 4 * 18


def test_episodes_that_end_are_counted_with_their_true_returns_and_lengths() -> None:
    paid = CATCH | {"arguments": {"rows": 6}}
    step = next(updates(config_of(environment=paid, reward_clip=0.001), Context()))
    returns, lengths = step.metrics["rollout/return"], step.metrics["rollout/length"]
    assert isinstance(returns, Mean)
    assert isinstance(lengths, Mean)
    assert (lengths.total, lengths.count) == (4 * 5, 4)
    assert returns.total in (-4, -2, 0, 2, 4)


def test_episodes_that_are_cut_count_in_no_statistic() -> None:
    """Every update the environments start anew, after 5 of the 9 steps of an episode."""
    config = config_of(reset_every_updates=1)
    for step in updates(config, Context()):
        returns = step.metrics["rollout/return"]
        assert isinstance(returns, Mean)
        assert returns.count == 0


def test_rewards_are_clipped_for_learning_only() -> None:
    unclipped, clipped = (
        list(updates(config_of(environment=CARTPOLE, reward_clip=clip), Context())) for clip in (None, 0.5)
    )
    assert unclipped[0].metrics["train/value_loss"] != clipped[0].metrics["train/value_loss"]
    assert unclipped[0].metrics["rollout/return"] == clipped[0].metrics["rollout/return"]


def test_rewards_are_scaled_after_they_are_clipped() -> None:
    rollout = Rollout(3, 1, Box(0, 1), Categorical(2), Context())
    rollout.rewards_TN[:, 0], rollout.valid_TN[:] = (-8, 1, 8), True
    assert rollout.returns(0.0, reward_clip=2.0, reward_scale=10.0)[:, 0].tolist() == [-20, 10, 20]


def test_two_runs_of_one_seed_are_the_same_and_two_seeds_are_not() -> None:
    first, again, other = (list(updates(config_of(), Context(seed=seed)))[-1] for seed in (1, 1, 2))
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, weights(again)[name])
        if name.endswith("weight"):
            assert not torch.equal(tensor, weights(other)[name])


@pytest.mark.parametrize("stop", [4, 8])
def test_a_run_resumed_where_environments_start_anew_ends_with_the_same_bytes(stop: int, tmp_path: Path) -> None:
    config = config_of()
    store = CheckpointStore(tmp_path)
    straight: list[Step] = []
    for step in updates(config, Context()):
        straight.append(step)
        if step.update == stop:
            assert step.state is not None
            store.save(step.update, step.state)
            store.wait()
    store.close()
    (folder,) = tmp_path.iterdir()
    resumed = list(updates(config, Context(checkpoint=Checkpoint(folder))))
    assert [step.update for step in resumed] == list(range(stop + 1, 13))
    assert [step.metrics for step in resumed] == [step.metrics for step in straight[stop:]]
    for name, tensor in weights(straight[-1]).items():
        assert torch.equal(tensor, weights(resumed[-1])[name])


@pytest.mark.parametrize("accumulate", [2, 4])
def test_cutting_the_batch_into_microbatches_changes_nothing(accumulate: int) -> None:
    context = Context(precision="fp64")
    whole, cut = (
        list(updates(config_of(update={"accumulate": pieces, "clip_norm": 40.0}), context))[-1]
        for pieces in (1, accumulate)
    )
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], tensor, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_gradient_does_not_depend_on_how_many_workers_share_the_environments(ranks: int) -> None:
    """The sum of the workers' gradients over two rollouts, CartPole's own dynamics included."""
    shared = [gradient(Context(precision="fp64", rank=rank, ranks=ranks)) for rank in range(ranks)]
    for name, whole in gradient(Context(precision="fp64")).items():
        torch.testing.assert_close(sum(part[name] for part in shared), whole, rtol=1e-9, atol=1e-12)


def gradient(context: Context) -> dict[str, Tensor]:
    """This rank's share of the gradient over two rollouts of 12 environments, in which episodes end."""
    share = own_rows(12, 1, context)
    config = Config.model_validate({"environment": CARTPOLE}).environment
    with open_groups(config, share, 1, seed=1) as groups, closing(Actor(groups, 30, 12, share, 1, context)) as actor:
        context.seed_torch("initialise")
        spaces = groups[0].environments.observation_space, groups[0].environments.action_space
        network = context.place(build_network(MLP(), *spaces))
        loss = ActorCriticLoss(network, Categorical(2), 0.5, 0.01)
        actor.reset(0)
        for number in range(2):
            rollout = actor.rollout(network, number)
            for microbatch in rollout.microbatches(rollout.returns(0.99), 1):
                loss(microbatch).total.backward()
    return {name: tensor.grad for name, tensor in loss.named_parameters() if tensor.grad is not None}


def played(environment: Any, network: Any, uniforms_TN: NDArray[np.float64]) -> Rollout:
    """A rollout of one environment, in float64."""
    with open_groups(environment, slice(0, 1), 1, seed=1) as (group,):
        space = group.environments.observation_space
        rollout = Rollout(len(uniforms_TN), 1, space, Categorical(2), Context(precision="fp64"))
        group.reset(0)
        rollout.collect(network, [group], uniforms_TN)
    return rollout


class PushLeft(nn.Module):
    """Always takes action 0, and values a state by the cart's place and the pole's angle."""

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        logits_MA = torch.tensor([100.0, -100.0], dtype=observations.dtype).expand(len(observations), 2)
        return logits_MA, 10 * observations[:, 0] + observations[:, 2]


def targets(autoreset: str) -> list[tuple[float, ...]]:
    """Observation and return of the first 70 transitions of one environment whose episodes end in both ways.

    Pushed to the left alone the pole falls after 8 to 10 steps; at 9 the time is up.
    """
    environment = CARTPOLE | {"autoreset": autoreset, "arguments": {"max_episode_steps": 9}}
    config = Config.model_validate({"environment": environment}).environment
    rollout = played(config, PushLeft(), np.zeros((120, 1)))
    (microbatch,) = rollout.microbatches(rollout.returns(0.9), 1)
    assert rollout.truncated_TN.any()
    assert (rollout.ended_TN & ~rollout.truncated_TN).any()
    valid = microbatch.valid_M
    rows = torch.cat([microbatch.observations[valid], microbatch.returns_M[valid].unsqueeze(1)], dim=1)
    return [tuple(row) for row in rows[:70].tolist()]


def test_both_autoreset_modes_give_the_same_learning_targets() -> None:
    same_step, next_step = targets("same_step"), targets("next_step")
    assert len(same_step) == 70
    assert same_step == next_step


def test_a_truncated_episode_is_worth_what_its_last_observation_is() -> None:
    """Chain of 2: rewards 1 and 2; where it ends V = 8, where it starts anew V = 0."""
    returns = {
        end: chain_returns({"kind": "gymnasium", "id": "footplate/Chain-v0", "arguments": {"length": 2, "end": end}})
        for end in ("terminated", "truncated")
    }
    assert returns["terminated"] == [1 + 0.5 * 2, 2, 2, 2]
    assert returns["truncated"] == [1 + 0.5 * (2 + 0.5 * 8), 2 + 0.5 * 8, 4, 6]


class Position(nn.Module):
    """Values state s of a chain 4 s."""

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.arange(observations.shape[1], dtype=observations.dtype)
        return torch.zeros(len(observations), 2, dtype=observations.dtype), 4 * observations @ scale


def chain_returns(environment: dict[str, Any]) -> list[float]:
    rollout = played(Config.model_validate({"environment": environment}).environment, Position(), np.full((4, 1), 0.3))
    return [float(value) for value in rollout.returns(0.5)[:, 0]]


def test_continuous_actions_are_learnt_too() -> None:
    """Pays for an action near 1/2: means that start near 0 come near it."""
    config = config_of(
        environment={"kind": "own", "name": f"{__name__}.Target"},
        environments=16, rollout_steps=4, steps=16 * 4 * 60, entropy_weight=0.0, reward_clip=None,
        optimizer={"kind": "adam", "learning_rate": 0.01}, network={"kind": "mlp", "hidden": [8]},
        reset_every_updates=60, evaluate={"every_updates": 60, "episodes": 8, "environments": 8, "actions": "greedy"},
    )  # fmt: skip
    *_, last = train(config, Context(seed=1))
    assert float(last.metrics["eval/return"]) > -0.02  # type: ignore[arg-type]


class Target(gymnasium.Env[Any, Any]):
    """One step an episode, which costs the squared distance of the action from 1/2."""

    observation_space = Box(0.0, 1.0, (1,), np.float32)
    action_space = Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.ones(1, np.float32), -float((action[0] - 0.5) ** 2), True, False, {}


def test_the_saved_policy_is_evaluated_on_other_seeds_than_those_that_chose_it(tmp_path: Path) -> None:
    config = config_of(environment=CARTPOLE, evaluate={"every_updates": 4, "episodes": 5, "environments": 2})
    *_, last = updates(config, Context())
    assert last.state is not None
    store = CheckpointStore(tmp_path)
    store.save(last.update, last.state)
    store.close()
    (folder,) = tmp_path.iterdir()
    context = Context(checkpoint=Checkpoint(folder))
    first, again = (list(evaluate(config, context))[-1] for _ in range(2))
    assert first.update == 12
    assert first.metrics == again.metrics
    assert first.metrics["eval/return"] != last.metrics["eval/return"]
