"""Asynchronous n-step Q-learning: what it learns towards, how it explores, both functions of the update."""

from contextlib import closing
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pydantic import ValidationError
from torch import Tensor

from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.context import Context
from footplate.errors import FootplateError
from footplate.shared_parameters import SharedParameters
from footplate.step import Mean, Step
from footplate_rl.action_values import QLoss, build_q_network
from footplate_rl.async_q import Config, Worker, evaluate, train
from footplate_rl.environments import make_environments
from footplate_rl.exploration import Choice, EpsilonGreedy, Uniform
from footplate_rl.groups import Group
from footplate_rl.losses import Microbatch
from footplate_rl.networks import MLP
from footplate_rl.rollout import Rollout

CARTPOLE = {"kind": "gymnasium", "id": "CartPole-v1"}
SMALL = {
    "environment": CARTPOLE,
    "workers": 1,
    "processes": False,
    "environments": 2,
    "rollout_steps": 5,
    "steps": 2 * 5 * 24,
    "network": {"kind": "mlp", "hidden": [16]},
    "optimizer": {"kind": "rmsprop", "learning_rate": 0.01},
    "exploration": {"kind": "uniform", "resample_every_updates": 4, "anneal_updates": 12},
    "target_every_updates": 6,
    "round_updates": 4,
    "reset_every_updates": 8,
    "evaluate": {"every_updates": 16, "episodes": 2, "environments": 2},
}


def config_of(**changes: Any) -> Config:
    return Config.model_validate(SMALL | changes, strict=False)


def rounds(config: Config, context: Context) -> list[Step]:
    return [step for step in train(config, context) if step.activity is None]


def state_of(step: Step, part: str = "model") -> dict[str, Tensor]:
    assert step.state is not None
    return {name: tensor.clone() for name, tensor in step.state[part].state_dict().items()}


def test_the_best_value_of_the_target_network_bootstraps() -> None:
    """CartPole pays 1 a step; within 5 steps nothing ends, with a time limit of 3 they are truncated."""
    for limit in (500, 3):
        environment = config_of(environment=CARTPOLE | {"arguments": {"max_episode_steps": limit}}).environment
        with closing(make_environments(environment, 1)) as environments:
            torch.manual_seed(1)
            acting = build_q_network(MLP(hidden=(8,)), environments.observation_space, environments.action_space)
            target = deepcopy(acting)
            with torch.no_grad():
                target.action_values.weight.zero_()
                target.action_values.bias.copy_(torch.tensor([7.0, 16.0]))
            group = Group(environments, slice(0, 1))
            group.reset(0)
            rollout = Rollout(5, 1, environments.observation_space, EpsilonGreedy(2, 1.0), Context())
            rollout.collect(acting, [group], np.linspace(0, 0.99, 5)[:, None], bootstrap=target)
        returns = rollout.returns(0.5)[:, 0].tolist()
        following = [16.0] if limit == 500 else [16.0, 16.0]
        expected: list[float] = []
        for t in reversed(range(5)):
            after = following[0] if t == 4 or (limit == 3 and t == 2) else expected[0]
            expected.insert(0, 1 + 0.5 * after)
        assert returns == expected


def test_the_loss_is_the_squared_distance_of_the_chosen_value_from_the_return() -> None:
    network = build_q_network(MLP(hidden=()), Box(0, 1, (1,)), Discrete(2))
    with torch.no_grad():
        network.action_values.weight.zero_()
        network.action_values.bias.copy_(torch.tensor([1.0, 4.0]))
    valid = torch.tensor([True, True, False])
    batch = Microbatch(torch.zeros(3, 1), torch.tensor([0, 1, 1]), torch.tensor([3.0, 5.0, 9.0]), valid)
    terms = QLoss(network)(batch)
    assert (terms.total.item(), int(terms.count)) == (2**2 + 1**2, 2)
    assert float(terms.metrics["train/action_value"].total) == 1 + 4
    terms.total.backward()
    assert network.action_values.bias.grad is not None
    assert network.action_values.bias.grad.tolist() == [-4.0, -2.0]


def test_values_are_of_discrete_actions_only() -> None:
    with pytest.raises(FootplateError) as error:
        next(train(config_of(environment={"kind": "gymnasium", "id": "Pendulum-v1"}), Context()))
    assert str(error.value) == (
        "network: actions are Box(-2.0, 2.0, (1,), float32); values are of discrete ones, so use an environment that "
        "has them, or a3c"
    )


def test_below_epsilon_any_action_is_taken_and_above_it_the_best() -> None:
    values_NA = torch.tensor([[0.0, 1.0, 0.5, 0.2]]).repeat(6, 1)
    uniforms_N = torch.tensor([0.0, 0.11, 0.26, 0.39, 0.4, 0.99], dtype=torch.float64)
    assert EpsilonGreedy(4, 0.4).sample(values_NA, uniforms_N).tolist() == [0, 1, 2, 3, 1, 1]
    assert EpsilonGreedy(4, 0.0).sample(values_NA, uniforms_N).tolist() == [1] * 6
    assert EpsilonGreedy(4, np.array([1.0, 0, 0, 0, 0, 1.0])).sample(values_NA, uniforms_N).tolist() == [
        0,
        1,
        1,
        1,
        1,
        3,
    ]


def test_the_three_rates_of_the_paper_are_drawn_as_often_as_it_says() -> None:
    drawn = Choice().draw((np.arange(1000) + 0.5) / 1000)
    assert [int((drawn == rate).sum()) for rate in (0.1, 0.01, 0.5)] == [400, 300, 300]


def test_uniform_rates_stay_within_their_bounds() -> None:
    drawn = Uniform(kind="uniform", low=0.2, high=0.6).draw(np.array([0.0, 0.5, 0.999999]))
    assert drawn.tolist() == pytest.approx([0.2, 0.4, 0.6], abs=1e-6)


def test_a_rate_falls_from_1_to_what_was_drawn() -> None:
    exploration = Choice(anneal_updates=100)
    drawn = np.array([0.1, 0.5])
    assert [exploration.at(update, drawn).tolist() for update in (0, 50, 100, 1000)] == [
        [1, 1], [pytest.approx(0.55), 0.75], [pytest.approx(0.1), 0.5], [pytest.approx(0.1), 0.5],
    ]  # fmt: skip
    assert Choice(anneal_updates=0).at(0, drawn).tolist() == pytest.approx([0.1, 0.5])


def test_each_actor_draws_its_own_rate_anew_from_time_to_time_whoever_asks() -> None:
    config = config_of(workers=2, exploration={"kind": "uniform", "resample_every_updates": 4, "anneal_updates": 0})
    context = Context()
    with closing(make_environments(config.environment, 1)) as environments:
        network = build_q_network(config.network, environments.observation_space, environments.action_space)
    shared = [SharedParameters(deepcopy(network), config.optimizer) for _ in range(2)]
    workers = [Worker(config, shared[0], shared[1], index, context.seed, "fp32") for index in (0, 1)]
    rates = [[tuple(worker._epsilon(number)) for number in range(12)] for worker in workers]
    for of_one in rates:
        assert len(set(of_one)) == 3
        assert of_one[0] == of_one[3] != of_one[4]
    assert len({rate for of_one in rates for pair in of_one for rate in pair}) == 2 * 2 * 3
    for worker in workers:
        worker.close()


def test_the_target_network_is_a_copy_of_the_parameters_every_so_many_updates() -> None:
    """With 8, the update behind each saved state copies what that state holds, and learns towards it until the next."""
    saved = [
        (state_of(step), state_of(step, "target"))
        for step in train(config_of(target_every_updates=8), Context())
        if step.state is not None
    ]
    assert len(saved) == 3
    for (before, _), (after, target) in pairwise(saved):
        torch.testing.assert_close(target, before, rtol=0, atol=0)
        assert not torch.equal(after["action_values.weight"], target["action_values.weight"])


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_in_this_thread_resumes_to_the_same_bytes(workers: int, tmp_path: Path) -> None:
    config = config_of(workers=workers)
    store = CheckpointStore(tmp_path)
    straight = iter(train(config, Context()))
    for step in straight:
        if step.update == 8 and step.state is not None:
            store.save(step.update, step.state)
            store.wait()
            break
    *_, last = straight
    store.close()
    (folder,) = tmp_path.iterdir()
    resumed = rounds(config, Context(checkpoint=Checkpoint(folder)))
    assert resumed[-1].metrics == last.metrics
    epsilon = last.metrics["rollout/epsilon"]
    assert isinstance(epsilon, Mean)
    for part in ("model", "target"):
        for name, tensor in state_of(last, part).items():
            assert torch.equal(state_of(resumed[-1], part)[name], tensor)
    assert list(evaluate(config, Context(checkpoint=Checkpoint(folder))))[-1].metrics["eval/length"] >= 1


def test_layers_that_nothing_shares_are_refused() -> None:
    with pytest.raises(ValidationError) as error:
        config_of(network={"kind": "mlp", "shared": True})
    problem = "network.shared: there is no policy to share layers with; leave it out"
    assert error.value.errors()[0]["msg"] == f"Value error, {problem}"


@pytest.mark.parametrize(
    ("exploration", "problem"),
    [
        ({"kind": "choice", "rates": [0.1, 0.2]}, "probabilities: 3 that add up to 1, for 2 rates; give one for each, "
         "together 1"),
        ({"kind": "uniform", "low": 0.6}, "low: 0.6 is above high: 0.5; exchange them"),
    ],
)  # fmt: skip
def test_what_is_no_distribution_of_rates_is_refused(exploration: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as error:
        config_of(exploration=exploration)
    assert error.value.errors()[0]["msg"] == f"Value error, {problem}"
