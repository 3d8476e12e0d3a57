"""Evaluation: how good is the policy, in raw returns, without favour for short episodes.

Axes: N environment of this rank.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import count
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from footplate.context import Context
from footplate.section import Count, Every, Fraction, Section, WholeNumber
from footplate.step import Activity, Step
from footplate.update import Update
from footplate_rl.environments import (
    AtariConfig,
    Environments,
    Episode,
    GymnasiumConfig,
    Observations,
    OwnConfig,
    make_environments,
    protocol_of,
)
from footplate_rl.policy import ActionChoice, Policy
from footplate_rl.watching import Recorder, returns_picture, watch

_STEPS_BETWEEN_NEWS = 100


class Quota(Every):
    """A fixed quota of episodes for each of some environments that are used for nothing else."""

    episodes: Count = 100
    """How many episodes are counted, shared out evenly over the environments beforehand: the first ones of each."""
    environments: Count = 20
    """How many environments play at the same time."""
    videos: WholeNumber = 0
    """Film the first episode of each of so many environments (of the first worker's), into `videos` of the run folder,
    each with seed and actions beside it: `footplate play RUN --replay FILE.json` plays it again."""
    values: bool = False
    """Draw what the network makes of each step of the first environment's first episode: the values of states or
    actions, and the policy."""
    histogram: bool = False
    """Draw how the returns are spread."""

    @model_validator(mode="after")
    def _has_as_many_to_film(self) -> Self:
        if self.videos > (there := min(self.environments, self.episodes)):
            raise ValueError(f"videos: {self.videos} of {there} environments that play; use at most {there}")
        return self


class Evaluation(Quota):
    """The quota, and how a policy chooses its actions in it."""

    actions: ActionChoice = "sampled"
    """`sampled` from the policy, as it trains and as the papers of actor-critic agents report; or `greedy`."""


class GreedyEvaluation(Quota):
    """The quota, and how seldom the best action is not taken in it."""

    epsilon: Fraction = 0.001
    """The probability of a random action, which gets a policy without chance out of a loop; Mnih 2015 has 0.05."""


def policy_metrics(config: Section) -> tuple[str, ...]:
    """What `evaluate_policy` measures, whatever the configuration."""
    return ("eval/return", "eval/return_low", "eval/return_high", "eval/length")


def quotas(episodes: int, environments: int) -> list[int]:
    """How many episodes each environment plays.

    Whoever takes the first episodes to finish, whichever environment they come from, counts too many short ones.

    >>> quotas(10, 4)
    [3, 3, 2, 2]
    >>> quotas(2, 4)
    [1, 1]
    """
    playing = min(environments, episodes)
    return [episodes // playing + (index < episodes % playing) for index in range(playing)]


def bootstrap_interval(
    returns: Sequence[float], generator: np.random.Generator, resamples: int = 2000
) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval of the mean.

    It never leaves the range of the returns, as mean +- 1.96 standard errors does.

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13.

    >>> bootstrap_interval([3.0, 3.0], np.random.default_rng(1))
    (3.0, 3.0)
    """
    sample = np.asarray(returns)
    means = sample[generator.integers(len(sample), size=(resamples, len(sample)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def evaluate_policy(
    policy: Policy,
    environment: GymnasiumConfig | OwnConfig | AtariConfig,
    config: Quota,
    context: Context,
    update: int,
    stream: str = "evaluation",
) -> Generator[Step, None, dict[str, float]]:
    """Play the quota, sharing the environments over the ranks; yields news of progress and returns the metrics.

    `eval/return` is the mean raw return, `eval/return_low` and `eval/return_high` its 95 % interval, `eval/length` the
    mean number of steps. Episodes beyond an environment's quota and those that are unfinished when all quotas are
    filled count for nothing. Seeds and actions are a function of (seed, stream, update), whatever the number of ranks.
    Videos and pictures are made by playing episodes again, and change nothing of this.
    """
    quota = quotas(config.episodes, config.environments)
    mine = slice(*(len(quota) * rank // context.ranks for rank in (context.rank, context.rank + 1)))
    own: list[Episode] = []
    watched = max(config.videos, int(config.values)) if context.rank == 0 else 0
    recorder = Recorder(environment, min(watched, len(quota[mine])), context.seed, stream, update)
    if quota[mine]:
        environments = make_environments(
            environment, len(quota[mine]), first_index=mine.start, seed=context.seed, stream=stream, training=False
        )
        generator = context.stream(f"{stream}/act", update)
        with closing(environments):
            shape = (len(quota), *policy.sampler.shape)
            observations_NO = environments.reset(update)
            uniforms = lambda: generator.random(shape)[mine]  # noqa: E731
            playing = _play(policy, environments, observations_NO, quota[mine], mine.start, uniforms, recorder)
            for episode in playing:
                own += [] if episode is None else [episode]
                yield Step(update, activity=Activity("evaluate", len(own), sum(quota[mine])))
    played = [episode for share in context.gather(own) for episode in share]
    returns = [episode.total_reward for episode in sorted(played, key=lambda episode: episode.environment)]
    low, high = bootstrap_interval(returns, context.stream(f"{stream}/interval", update))
    recordings = sorted(recorder.recordings, key=lambda recording: recording.index)
    yield from watch(recordings, policy, context, videos=config.videos, values=config.values)
    if config.histogram and context.rank == 0:
        yield Step(update, activity=Activity("evaluate", len(own), len(own)), media=returns_picture(returns, update))
    return {
        "eval/return": float(np.mean(returns)),
        "eval/return_low": low,
        "eval/return_high": high,
        "eval/length": float(np.mean([episode.steps for episode in played])),
    }


def evaluate_and_observe(
    learner: Update,
    policy: Policy,
    environment: GymnasiumConfig | OwnConfig | AtariConfig,
    config: Quota,
    context: Context,
    update: int,
) -> Generator[Step, None, dict[str, float]]:
    """`evaluate_policy` in the middle of training; a schedule that is a plateau hears of the mean return."""
    evaluated = yield from evaluate_policy(policy, environment, config, context, update)
    learner.observe(evaluated["eval/return"])
    return evaluated


def evaluate_saved(
    saved_policy: Callable[..., Policy],
    environment: GymnasiumConfig | OwnConfig | AtariConfig,
    config: Quota,
    context: Context,
) -> Iterator[Step]:
    """Play the quota with `saved_policy(observations, actions, context)`, the policy in `context.checkpoint`.

    Seeds are others than those that chose the best checkpoint. The last step carries the metrics.
    """
    logging.getLogger("footplate").info(f"playing {protocol_of(environment)}")
    with closing(make_environments(environment, 1, seed=context.seed, training=False)) as environments:
        spaces = environments.observation_space, environments.action_space
    policy = saved_policy(*spaces, context)
    update = 0 if context.checkpoint is None else context.checkpoint.update
    metrics = yield from evaluate_policy(policy, environment, config, context, update, "final evaluation")
    yield Step(update, metrics)


def _play(
    policy: Policy,
    environments: Environments,
    observations_NO: Observations,
    quota: Sequence[int],
    first_index: int,
    uniforms: Callable[[], NDArray[np.float64]],
    recorder: Recorder,
) -> Iterator[Episode | None]:
    """The episodes that count, as they end; None now and then, so that whoever consumes this can breathe."""
    left_N = np.array(quota)
    begins_N = np.ones(len(quota), np.bool_)
    for number in count(1):
        actions_N = policy.act(observations_NO, uniforms(), begins_N)
        step = environments.step(actions_N)
        recorder.note(actions_N, step)
        observations_NO, begins_N = step.observations_NO, step.begins_N
        for episode in step.episodes:
            row = episode.environment - first_index
            left_N[row] -= 1
            if left_N[row] >= 0:
                yield episode
        if (left_N <= 0).all():
            return
        if number % _STEPS_BETWEEN_NEWS == 0:
            yield None
