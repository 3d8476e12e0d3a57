"""Asynchronous n-step Q-learning: workers learn action values beside each other and share parameters, unlocked.

Source: Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning" (arXiv 1602.01783), algorithm S2.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from copy import deepcopy
from functools import partial

import numpy as np
from gymnasium.spaces import Box, Discrete
from pydantic import model_validator

from footplate.context import Context
from footplate.job import Job, Precision
from footplate.section import Count
from footplate.shared_parameters import Parameters
from footplate.step import Mean, Step
from footplate.update import LossTerms
from footplate_rl.action_values import QLoss, QNetwork, build_q_network
from footplate_rl.asynchronous import (
    AsynchronousConfig,
    Learning,
    Report,
    check_asynchronous,
    rounds,
    spaces_of,
)
from footplate_rl.environments import make_environments
from footplate_rl.evaluation import GreedyEvaluation, evaluate_policy, evaluate_saved, policy_metrics
from footplate_rl.exploration import Choice, EpsilonGreedy, Exploration
from footplate_rl.groups import Group
from footplate_rl.networks import MLP
from footplate_rl.policy import Policy
from footplate_rl.resets import require_evaluations_at_resets
from footplate_rl.rollout import Rollout


class Config(AsynchronousConfig):
    """The defaults are the paper's where it says them, for Atari."""

    exploration: Exploration = Choice()
    """How often each actor, one for each environment of each worker, takes a random action."""
    target_every_updates: Count = 2_000
    """After how many updates of all workers together the target network becomes a copy of the parameters."""
    evaluate: GreedyEvaluation = GreedyEvaluation(every_updates=200_000, episodes=30, environments=15)
    """When and how the policy is evaluated; a multiple of `reset_every_updates`. It also happens at the end."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "Config":
        if isinstance(self.network, MLP) and self.network.shared:
            raise ValueError("network.shared: there is no policy to share layers with; leave it out")
        require_evaluations_at_resets(self.evaluate.every_updates, self.reset_every_updates)
        return self


DEBUG_OVERRIDES: Mapping[str, object] = {
    "steps": 100,
    "workers": 2,
    "environments": 1,
    "processes": False,
    "rollout_steps": 5,
    "round_updates": 5,
    "reset_every_updates": 10,
    "target_every_updates": 10,
    "evaluate.every_updates": 10,
    "evaluate.episodes": 2,
    "evaluate.environments": 2,
    "evaluate.videos": 0,
}

EVALUATION_KEYS = ("evaluate", "environment")

NEXT_COMMANDS = ("footplate evaluate {run} evaluate.episodes=100", "footplate play {run} --video episodes.mp4")


evaluated_metrics = policy_metrics


def check(job: Job) -> None:
    """Raise ValueError where the job asks for what asynchronous workers can't give."""
    assert isinstance(job.config, Config)
    check_asynchronous(job)


def actors(config: Config) -> int:
    """How many workers play elsewhere than in this thread."""
    return config.workers if config.processes else 0


class Worker:
    """One of the workers: its own environments, and its own copies of the parameters and of the target network's."""

    def __init__(
        self, config: Config, shared: Parameters, target: Parameters, index: int, seed: int, precision: Precision
    ) -> None:
        self._config, self._shared, self._target = config, shared, target
        self._context, self._first = Context(seed=seed, precision=precision), index * config.environments
        count = config.environments
        environments = make_environments(config.environment, count, first_index=self._first, seed=seed)
        self._group = Group(environments, slice(0, count))
        spaces = environments.observation_space, environments.action_space
        self._network = self._context.place(build_q_network(config.network, *spaces))
        self._target_network = deepcopy(self._network)
        self._target_version = -1
        self._actions = self._network.action_values.out_features
        sampler = EpsilonGreedy(self._actions, 1.0)
        self._rollout = Rollout(config.rollout_steps, count, spaces[0], sampler, self._context)
        self._loss = QLoss(self._network)
        self._learning = Learning(config, shared, list(self._network.parameters()), config.updates)

    def reset(self, number: int) -> None:
        """The environments start anew with the seeds of their `number`-th reset."""
        self._group.reset(number)

    def learn(self, first: int, count: int) -> Report:
        """Make the updates `first` to `first + count - 1`, and those of the target network that fall among them."""
        return self._learning.round(first, count, self._play)

    def _play(self, number: int) -> tuple[Rollout, LossTerms]:
        rollout, config = self._rollout, self._config
        if number % config.target_every_updates == 0:  # it falls to whoever has this number
            self._target.put(list(self._network.parameters()))
        self._target_version = self._target.pull(list(self._target_network.parameters()), self._target_version)
        epsilon_N = self._epsilon(number)
        rollout.sampler = EpsilonGreedy(self._actions, epsilon_N)
        uniforms_TN = self._context.stream("act", number).random((config.rollout_steps, config.environments))
        rollout.collect(self._network, [self._group], uniforms_TN, bootstrap=self._target_network)
        returns_TN = rollout.returns(config.discount, config.reward_clip, config.reward_scale)
        (microbatch,) = rollout.microbatches(returns_TN, 1)
        terms = self._loss(microbatch)
        epsilon = Mean(float(epsilon_N.sum()), len(epsilon_N))
        return rollout, terms._replace(metrics={**terms.metrics, "rollout/epsilon": epsilon})

    def _epsilon(self, number: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """The rate of each of this worker's environments: a function of seed, environment and update alone."""
        exploration, config = self._config.exploration, self._config
        stream = self._context.stream("epsilon", number // exploration.resample_every_updates)
        uniforms = stream.random(config.workers * config.environments)
        own_N = uniforms[self._first : self._first + config.environments]
        return exploration.at(number, exploration.draw(own_N))

    def close(self) -> None:
        self._group.environments.close()


def train(config: Config, context: Context) -> Iterator[Step]:
    """One step for each round of a worker; `state` where all rest and the environments start anew."""
    spaces, frames_per_step = spaces_of(config.environment, context)
    context.seed_torch("initialise")
    network = context.place(build_q_network(config.network, *spaces))
    target_network = deepcopy(network)
    shared, target = (context.share(module, config.optimizer) for module in (network, target_network))
    parts = {"model": network, "target": target_network, "learner": shared}
    done = context.restore(**parts)
    for one in (shared, target):
        one.publish()
    policy = _policy(network, config, context)
    workers = [(config, shared, target, index, context.seed, context.precision) for index in range(config.workers)]

    with closing(context.pool(Worker, workers, processes=config.processes)) as pool:
        for number, report in rounds(pool, done, config):
            metrics = report.metrics() | pool.usage() | shared.usage("parameters") | target.usage("target")
            rest = number == config.updates or number % config.reset_every_updates == 0
            if rest:
                for one in (shared, target):
                    one.refresh()
            if number == config.updates or config.evaluate.due(number):
                metrics |= yield from evaluate_policy(policy, config.environment, config.evaluate, context, number)
            yield Step(number, metrics, work=report.work(frames_per_step), state=parts if rest else None)


def _policy(network: QNetwork, config: Config, context: Context) -> Policy:
    return Policy(network, EpsilonGreedy(network.action_values.out_features, config.evaluate.epsilon), context)


def saved_policy(config: Config, observations: Box, actions: Discrete | Box, context: Context) -> Policy:
    """The policy in `context.checkpoint`, as evaluations and `footplate play` have it."""
    context.seed_torch("initialise")
    network = context.place(build_q_network(config.network, observations, actions))
    context.restore(model=network)
    return _policy(network, config, context)


def evaluate(config: Config, context: Context) -> Iterator[Step]:
    """Play `config.evaluate` with the saved policy, on other seeds than those that chose the best checkpoint."""
    yield from evaluate_saved(partial(saved_policy, config), config.environment, config.evaluate, context)
