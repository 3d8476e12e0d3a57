"""Distributions of continuous actions: what is drawn, how likely it is, and that it reaches the environment clipped."""

from contextlib import closing
from math import e, log, pi

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from footplate.context import Context
from footplate.errors import FootplateError
from footplate.job import load_job
from footplate_rl.distributions import Categorical, Gaussian, distribution_of
from footplate_rl.environments import GymnasiumConfig, make_environments
from footplate_rl.groups import Group
from footplate_rl.networks import MLP, build_network
from footplate_rl.policy import Policy
from footplate_rl.rollout import Rollout

HALF, NORMAL_84 = 0.5, 0.8413447460685429  # the distribution function of a standard normal at 0 and at 1


def test_what_a_policy_is_follows_from_the_actions() -> None:
    discrete, box = distribution_of(Discrete(5)), distribution_of(Box(-1, 1, (2, 3)))
    assert isinstance(discrete, Categorical)
    assert (discrete.outputs, discrete.shape) == (5, ())
    assert isinstance(box, Gaussian)
    assert (box.outputs, box.shape) == (12, (2, 3))


def test_a_normal_action_is_its_mean_at_one_half_and_a_deviation_more_at_84_percent() -> None:
    outputs_NP = torch.tensor([[3.0, -1.0, 0.0, log(2.0)]], dtype=torch.float64).repeat(2, 1)
    uniforms = torch.tensor([[HALF, HALF], [NORMAL_84, NORMAL_84]], dtype=torch.float64)
    actions = Gaussian((2,)).sample(outputs_NP, uniforms)
    torch.testing.assert_close(actions, torch.tensor([[3.0, -1.0], [4.0, 1.0]], dtype=torch.float64))
    assert Gaussian((2,)).likeliest(outputs_NP).tolist() == [[3, -1], [3, -1]]
    assert Gaussian((1,)).sample(outputs_NP[:1, :2] * 0, torch.zeros(1, 1)).isfinite().all()


def test_density_and_entropy_are_those_of_a_normal() -> None:
    outputs_MP = torch.tensor([[3.0, -1.0, 0.0, log(2.0)]], dtype=torch.float64)
    log_density_M, entropy_M = Gaussian((2,)).evaluate(outputs_MP, torch.tensor([[4.0, 1.0]], dtype=torch.float64))
    # Both axes are one deviation off: exp(-1/2) / sqrt(2 pi) / deviation each.
    assert log_density_M.item() == pytest.approx(-1 - log(2 * pi) - log(2))
    assert entropy_M.item() == pytest.approx(0.5 * log(2 * pi * e) + 0.5 * log(2 * pi * e * 4))


def test_the_deviations_are_parameters_that_start_at_1_whatever_is_seen() -> None:
    torch.manual_seed(1)
    network = build_network(MLP(), Box(-1, 1, (3,)), Box(-2, 2, (2,)))
    outputs_MP, values_M = network(torch.randn(5, 3))
    assert outputs_MP.shape == (5, 4)
    assert outputs_MP[:, 2:].abs().max().item() == 0
    (outputs_MP[:, 2:].sum() + values_M.sum()).backward()
    assert network.log_deviation_A is not None
    assert network.log_deviation_A.grad is not None
    assert network.log_deviation_A.grad.tolist() == [5, 5]


class Far(nn.Module):
    """Means far beyond the bounds of Pendulum, -2 to 2."""

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([[50.0, 0.0]]).repeat(len(observations), 1), torch.zeros(len(observations))


def test_an_action_is_learnt_from_as_drawn_and_clipped_for_the_environment() -> None:
    with closing(make_environments(GymnasiumConfig(id="Pendulum-v1"), 2)) as environments:
        group = Group(environments, slice(0, 2))
        group.reset(0)
        rollout = Rollout(3, 2, environments.observation_space, Gaussian((1,)), Context())
        rollout.collect(Far(), [group], np.full((3, 2, 1), NORMAL_84))
        assert rollout.actions_TNX.unique().tolist() == pytest.approx([51.0])
        environments.reset(0)
        rewards = [environments.step(np.full((2, 1), 2.0)).rewards_N for _ in range(3)]
    assert rollout.rewards_TN.tolist() == np.stack(rewards).tolist()
    policy = Policy(Far(), Gaussian((1,)), Context(), "greedy")
    assert policy.act(np.zeros((2, 3), np.float32), np.zeros((2, 1))).tolist() == [[50], [50]]


@pytest.mark.parametrize("recipe", ["catch-paac", "catch-ppo", "catch-dqn", "catch-apex"])
def test_a_device_that_has_no_float64_is_refused_before_anything_starts(recipe: str) -> None:
    with pytest.raises(FootplateError) as error:
        load_job(recipe, ["device=mps"])
    assert str(error.value).endswith("device: mps has no float64, in which actions are drawn; use cpu or cuda")
