"""A3C: asynchronous advantage actor-critic. Workers play and learn beside each other and share parameters, unlocked.

Source: Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning" (arXiv 1602.01783), algorithm S3.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial

from gymnasium.spaces import Box, Discrete
from pydantic import model_validator

from footplate.context import Context
from footplate.job import Job, Precision
from footplate.section import NonNegative
from footplate.shared_parameters import Parameters
from footplate.step import Step
from footplate.update import LossTerms
from footplate_rl.asynchronous import (
    AsynchronousConfig,
    Learning,
    Report,
    check_asynchronous,
    rounds,
    spaces_of,
)
from footplate_rl.distributions import distribution_of
from footplate_rl.environments import make_environments
from footplate_rl.evaluation import Evaluation, evaluate_policy, evaluate_saved, policy_metrics
from footplate_rl.groups import Group
from footplate_rl.losses import ActorCriticLoss
from footplate_rl.networks import MLP
from footplate_rl.policy import Policy, build_policy_network, load_policy
from footplate_rl.recurrent import LSTM
from footplate_rl.resets import require_evaluations_at_resets
from footplate_rl.returns import NStep, Returns
from footplate_rl.rollout import Rollout


class Config(AsynchronousConfig):
    """The defaults are the paper's where it says them, for Atari."""

    memory: LSTM | None = None
    """A memory between the hidden layers and the heads of policy and value; null for none."""
    returns: Returns = NStep()
    """What the value is trained towards and the advantage is reckoned with; the paper has `n_step`."""
    entropy_weight: NonNegative = 0.01
    """How much a nat of the policy's entropy is worth."""
    value_weight: NonNegative = 0.5
    """The weight of the squared error of the value."""
    evaluate: Evaluation = Evaluation(every_updates=200_000, episodes=30, environments=15)
    """When and how the policy is evaluated; a multiple of `reset_every_updates`. It also happens at the end."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "Config":
        if self.memory is not None and isinstance(self.network, MLP) and not self.network.shared:
            raise ValueError("memory: policy and value have it in common; set network.shared to true")
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
    """One of the workers: its own environments, and its own copy of the parameters."""

    def __init__(self, config: Config, shared: Parameters, index: int, seed: int, precision: Precision) -> None:
        self._config, self._context = config, Context(seed=seed, precision=precision)
        environments = make_environments(
            config.environment, config.environments, first_index=index * config.environments, seed=seed
        )
        distribution = distribution_of(environments.action_space)
        self._group = Group(environments, slice(0, config.environments))
        self._rollout = Rollout(
            config.rollout_steps, config.environments, environments.observation_space, distribution, self._context
        )
        self._shape_TNX = (config.rollout_steps, config.environments, *distribution.shape)
        spaces = environments.observation_space, environments.action_space
        self._network = self._context.place(build_policy_network(config.network, config.memory, *spaces))
        self._loss = ActorCriticLoss(self._network, distribution, config.value_weight, config.entropy_weight)
        self._learning = Learning(config, shared, list(self._network.parameters()), config.updates)

    def reset(self, number: int) -> None:
        """The environments start anew with the seeds of their `number`-th reset."""
        self._group.reset(number)

    def learn(self, first: int, count: int) -> Report:
        """Make the updates `first` to `first + count - 1`."""
        return self._learning.round(first, count, self._play)

    def _play(self, number: int) -> tuple[Rollout, LossTerms]:
        rollout, config = self._rollout, self._config
        rollout.collect(self._network, [self._group], self._context.stream("act", number).random(self._shape_TNX))
        returns_TN = rollout.returns(config.discount, config.reward_clip, config.reward_scale, config.returns)
        (microbatch,) = rollout.microbatches(returns_TN, 1)
        return rollout, self._loss(microbatch)

    def close(self) -> None:
        self._group.environments.close()


def train(config: Config, context: Context) -> Iterator[Step]:
    """One step for each round of a worker; `state` where all rest and the environments start anew."""
    spaces, frames_per_step = spaces_of(config.environment, context)
    context.seed_torch("initialise")
    network = context.place(build_policy_network(config.network, config.memory, *spaces))
    shared = context.share(network, config.optimizer)
    parts = {"model": network, "learner": shared}
    done = context.restore(**parts)
    shared.publish()
    policy = Policy(network, distribution_of(spaces[1]), context, config.evaluate.actions)
    workers = [(config, shared, index, context.seed, context.precision) for index in range(config.workers)]

    with closing(context.pool(Worker, workers, processes=config.processes)) as pool:
        for number, report in rounds(pool, done, config):
            metrics = report.metrics() | pool.usage() | shared.usage("parameters")
            rest = number == config.updates or number % config.reset_every_updates == 0
            if rest:
                shared.refresh()
            if number == config.updates or config.evaluate.due(number):
                metrics |= yield from evaluate_policy(policy, config.environment, config.evaluate, context, number)
            yield Step(number, metrics, work=report.work(frames_per_step), state=parts if rest else None)


def saved_policy(config: Config, observations: Box, actions: Discrete | Box, context: Context) -> Policy:
    """The policy in `context.checkpoint`, as evaluations and `footplate play` have it."""
    return load_policy(config.network, observations, actions, context, config.evaluate.actions, config.memory)


def evaluate(config: Config, context: Context) -> Iterator[Step]:
    """Play `config.evaluate` with the saved policy, on other seeds than those that chose the best checkpoint."""
    yield from evaluate_saved(partial(saved_policy, config), config.environment, config.evaluate, context)
