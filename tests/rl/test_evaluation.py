"""Evaluation: which episodes count, and that neither batch, rank nor reward clipping moves them."""

from collections.abc import Generator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from footplate.context import Context
from footplate.step import Step
from footplate_rl.distributions import Categorical, sample_actions
from footplate_rl.environments import Episode, make_environments
from footplate_rl.evaluation import Evaluation, bootstrap_interval, evaluate_policy, quotas
from footplate_rl.paac import Config
from footplate_rl.policy import Policy


class ShortAndLong(gymnasium.Env[np.ndarray[Any, Any], int]):
    """Half of the episodes last one step and pay 0, half last 50 and pay 1: the mean is 1/2."""

    observation_space = Box(0.0, 1.0, (1,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.is_long = bool(self.np_random.integers(2))
        self.left = 50 if self.is_long else 1
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return np.zeros(1, np.float32), float(self.is_long and self.left == 0), self.left == 0, False, {}


class Fixed(nn.Module):
    """The same policy everywhere."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits_A = torch.tensor(probabilities).log()

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits_A.expand(len(observations), -1), torch.zeros(len(observations))


def environment(**entries: Any) -> Any:
    return Config.model_validate({"environment": entries}).environment


CARTPOLE = environment(kind="gymnasium", id="CartPole-v1")


def finish(steps: Generator[Step, None, dict[str, float]]) -> tuple[list[Step], dict[str, float]]:
    news = []
    while True:
        try:
            news.append(next(steps))
        except StopIteration as stop:
            return news, stop.value


def play(where: Any, episodes: int, environments: int, seed: int = 1) -> tuple[list[Step], dict[str, float]]:
    network: Any = Fixed(0.5, 0.5)
    context = Context(seed=seed)
    config = Evaluation(every_updates=1, episodes=episodes, environments=environments)
    return finish(evaluate_policy(Policy(network, Categorical(2), context), where, config, context, update=7))


def test_the_quota_is_shared_out_evenly() -> None:
    assert quotas(100, 20) == [5] * 20
    assert quotas(7, 3) == [3, 2, 2]
    assert quotas(2, 8) == [1, 1]


def test_short_episodes_are_not_favoured() -> None:
    """Taking the first 200 to finish would find more than nine short ones in ten: a mean below 0.1."""
    where = environment(kind="own", name=f"{__name__}.ShortAndLong")
    _, metrics = play(where, episodes=200, environments=20)
    # 200 fair coins: standard error 0.035
    assert metrics["eval/return"] == pytest.approx(0.5, abs=0.12)
    assert metrics["eval/length"] == pytest.approx(1 + 49 * metrics["eval/return"])


def test_the_episodes_that_count_are_the_first_of_each_environment() -> None:
    _, metrics = play(CARTPOLE, episodes=6, environments=3)
    alone = [episode for index in range(3) for episode in first_episodes(index, 2)]
    assert metrics["eval/return"] == np.mean([episode.total_reward for episode in alone])
    assert metrics["eval/length"] == np.mean([episode.steps for episode in alone])


def first_episodes(index: int, number: int) -> list[Episode]:
    """What environment `index` of three plays when it is alone."""
    environments = make_environments(CARTPOLE, 1, first_index=index, stream="evaluation", training=False)
    uniforms = Context().stream("evaluation/act", 7)
    environments.reset(7)
    episodes: list[Episode] = []
    while len(episodes) < number:
        episodes += environments.step((uniforms.random(3)[index : index + 1] >= 0.5).astype(np.int64)).episodes
    environments.close()
    return episodes


def test_an_evaluation_depends_on_nothing_but_seed_and_update() -> None:
    assert play(CARTPOLE, 5, 2)[1] == play(CARTPOLE, 5, 2)[1]
    assert play(CARTPOLE, 5, 2)[1] != play(CARTPOLE, 5, 2, seed=2)[1]


def test_news_tell_how_many_episodes_are_done() -> None:
    news, _ = play(CARTPOLE, 5, 2)
    activities = [step.activity for step in news]
    assert all(step.state is None and step.update == 7 for step in news)
    assert [(a.done, a.total) for a in activities if a is not None] == [(n, 5) for n in range(1, 6)]


def test_the_interval_holds_the_mean_and_stays_within_the_returns() -> None:
    _, metrics = play(CARTPOLE, 30, 10)
    assert metrics["eval/return_low"] < metrics["eval/return"] < metrics["eval/return_high"]
    low, high = bootstrap_interval([21.0] * 9 + [20.0], np.random.default_rng(1))
    assert 20.0 <= low < 20.9 < high <= 21.0


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    intervals = [bootstrap_interval(generator.normal(size=40).tolist(), generator, 200) for _ in range(300)]
    assert 0.88 < np.mean([low < 0 < high for low, high in intervals]) < 0.98


def test_the_greedy_choice_takes_the_likeliest_action() -> None:
    network: Any = Fixed(0.4, 0.6)
    observations, uniforms = np.zeros((4, 1), np.float32), np.array([0.0, 0.39, 0.41, 0.99])
    assert Policy(network, Categorical(2), Context(), "greedy").act(observations, uniforms).tolist() == [1, 1, 1, 1]
    assert Policy(network, Categorical(2), Context(), "sampled").act(observations, uniforms).tolist() == [0, 0, 1, 1]


def test_actions_are_sampled_in_the_proportions_of_the_policy() -> None:
    logits_NA = torch.tensor([0.1, 0.6, 0.3]).log().expand(1000, 3)
    actions_N = sample_actions(logits_NA, (torch.arange(1000) + 0.5) / 1000)
    assert torch.bincount(actions_N).tolist() == [100, 600, 300]


def test_an_action_of_probability_zero_is_never_sampled() -> None:
    logits_NA = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0]]).log().expand(3, 5)
    assert sample_actions(logits_NA, torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 3, 3]
