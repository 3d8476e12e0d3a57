"""PAAC: parallel advantage actor-critic. One model acts in all environments at once and learns from them at once.

Source: Clemente, Castejón, Chandra 2017, "Efficient parallel methods for deep reinforcement learning" (arXiv
1705.04862), algorithm 1. `docs/paac.md` says where its published code differs, and which recipe gives that.

Environments can't be cloned, so all of them start anew every `reset_every_updates`: only there a run can be saved.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Literal

import torch
from gymnasium.spaces import Box, Discrete
from pydantic import model_validator

from footplate.context import Context
from footplate.job import Job
from footplate.optimizers import Optimizer, RmsProp
from footplate.schedules import Linear, Schedule
from footplate.section import Count, Fraction, NonNegative, Positive, Section, Threads
from footplate.step import Step
from footplate.update import Update, UpdateConfig
from footplate_rl.actor import Actor
from footplate_rl.distributions import distribution_of, require_float64
from footplate_rl.environments import DEBUG_ENVIRONMENT, EnvironmentConfig
from footplate_rl.evaluation import Evaluation, evaluate_and_observe, evaluate_saved, policy_metrics
from footplate_rl.groups import open_groups, own_rows
from footplate_rl.losses import ActorCriticLoss
from footplate_rl.networks import NIPS, Network, build_network
from footplate_rl.policy import Policy, load_policy
from footplate_rl.ranks import require_even_shares
from footplate_rl.resets import (
    require_evaluations_at_resets,
    require_saves_at_resets,
    require_that_higher_is_better,
)
from footplate_rl.returns import NStep, Returns
from footplate_rl.rollout import episode_metrics, restart_metrics
from footplate_rl.watching import require_that_it_can_be_filmed


class Config(Section):
    """The defaults are the paper's, for Atari."""

    steps: Count = 115_000_000
    """The budget: decisions of the agent, over all environments (on Atari four emulator frames each)."""
    environment: EnvironmentConfig
    """What is played."""
    environments: Count = 32
    """How many environments are played at once, n_e; the workers of a cluster share them."""
    groups: Count = 1
    """Into how many groups each worker cuts its environments: while the emulators of one are at work, the network acts
    for the next. For Atari and for environments in processes; what is computed stays the same up to rounding."""
    lag: Literal[0, 1] = 0
    """1 plays the next rollout during an update, in a thread, under the parameters from before that update: faster, and
    one update off the policy. The first rollout after environments start anew has the newest. 0 is the paper's."""
    acting_threads: Threads = 1
    """torch's threads while emulators run beside; learning has the job's `threads`. On two cores a second one costs."""
    rollout_steps: Count = 5
    """Steps of each environment between two updates, t_max."""
    discount: Fraction = 0.99
    """What a reward is worth one step later."""
    reward_clip: Positive | None = 1.0
    """Learn from rewards clipped to [-1, 1] times this; null for the true ones. Returns are reported unclipped."""
    reward_scale: Positive = 1.0
    """What multiplies each reward, once clipped, before it is learnt from: keeps values and gradients near 1."""
    returns: Returns = NStep()
    """What the value is trained towards and the advantage is reckoned with; the paper has `n_step`."""
    network: Network = NIPS()
    """What computes policy and value."""
    entropy_weight: NonNegative = 0.01
    """How much a nat of the policy's entropy is worth."""
    value_weight: NonNegative = 0.5
    """The weight of the squared error of the value."""
    optimizer: Optimizer = RmsProp(
        kind="rmsprop", learning_rate=0.0224, decay=0.99, epsilon=0.1, epsilon_inside_root=True
    )
    """The paper's learning rate is 0.0007 for each environment: 0.0224 for 32."""
    schedule: Schedule = Linear(kind="linear")
    """What becomes of the learning rate; a plateau watches `eval/return`."""
    update: UpdateConfig = UpdateConfig(clip_norm=40.0)
    """How gradients become an update."""
    evaluate: Evaluation = Evaluation(every_updates=20_000, episodes=30, environments=15)
    """When and how the policy is evaluated; a multiple of `reset_every_updates`. It also happens at the end."""
    reset_every_updates: Count = 2_000
    """All environments start anew after so many updates. Checkpoints fall only there: a stopped run goes on from
    the last, and `save.every_updates` is a multiple. Episodes cut this way bootstrap from the value of where they
    stood, and no statistic counts them: make it several times the longest one, in steps of each environment."""

    @property
    def updates(self) -> int:
        """How many updates the budget pays for."""
        return self.steps // (self.environments * self.rollout_steps)

    @model_validator(mode="after")
    def _is_consistent(self) -> "Config":
        if self.updates == 0:
            raise ValueError(
                f"steps: {self.steps} pays for no update, each takes environments * rollout_steps = "
                f"{self.environments * self.rollout_steps}; use at least as many"
            )
        if self.environments % self.update.accumulate:
            raise ValueError(
                f"environments: {self.environments} can't be cut into update.accumulate: {self.update.accumulate} "
                f"microbatches; use a multiple of {self.update.accumulate}"
            )
        if self.groups > self.environments:
            raise ValueError(
                f"groups: {self.environments} environments can't be cut into {self.groups} groups; use at most "
                f"{self.environments}"
            )
        if self.lag and self.reset_every_updates == 1:
            raise ValueError(
                "lag: 1 does nothing where environments start anew after every update; "
                "set reset_every_updates above 1 or leave it out"
            )
        require_that_higher_is_better(self.schedule)
        require_evaluations_at_resets(self.evaluate.every_updates, self.reset_every_updates)
        return self


DEBUG_OVERRIDES: Mapping[str, object] = {
    "steps": 40,
    "environments": 4,
    "groups": 1,
    "lag": 0,
    "rollout_steps": 2,
    "update.accumulate": 1,
    "reset_every_updates": 5,
    "evaluate.every_updates": 5,
    "evaluate.episodes": 2,
    "evaluate.environments": 2,
    "evaluate.videos": 0,
    **DEBUG_ENVIRONMENT,
}

EVALUATION_KEYS = ("evaluate", "environment")

NEXT_COMMANDS = ("footplate evaluate {run} evaluate.episodes=100", "footplate play {run} --video episodes.mp4")


evaluated_metrics = policy_metrics


def check(job: Job) -> None:
    """Raise ValueError where environments can't be shared, checkpoints would be rare, or nothing can be filmed."""
    assert isinstance(job.config, Config)
    require_even_shares(job, job.config.environments, job.config.groups, job.config.update.accumulate)
    require_saves_at_resets(job, job.config.reset_every_updates)
    require_float64(job)
    require_that_it_can_be_filmed(job)


def train(config: Config, context: Context) -> Iterator[Step]:
    """One step for each update; `state` at those after which the environments start anew."""
    share = own_rows(config.environments, config.update.accumulate, context)
    with (
        open_groups(config.environment, share, config.groups, context.seed) as groups,
        closing(
            Actor(groups, config.rollout_steps, config.environments, share, config.acting_threads, context)
        ) as actor,
    ):
        environments = groups[0].environments
        context.seed_torch("initialise")
        network = context.place(
            build_network(config.network, environments.observation_space, environments.action_space)
        )
        distribution = distribution_of(environments.action_space)
        loss = ActorCriticLoss(network, distribution, config.value_weight, config.entropy_weight)
        update = Update(loss, config.optimizer, config.schedule, config.update, context, updates=config.updates)
        context.restore(model=network, update=update)
        actor.reset(update.number)

        while update.number < config.updates:
            rollout = actor.rollout(network, update.number)
            last = update.number + 1 == config.updates
            boundary = last or (update.number + 1) % config.reset_every_updates == 0
            if config.lag and not boundary:
                actor.start(network, update.number + 1)
            returns_TN = rollout.returns(config.discount, config.reward_clip, config.reward_scale, config.returns)
            metrics = update(list(rollout.microbatches(returns_TN, config.update.accumulate)))
            metrics |= episode_metrics(rollout.episodes, context)
            metrics |= restart_metrics([group.environments for group in groups], context)
            steps = int(context.sum(torch.tensor(rollout.transitions)))

            if last or config.evaluate.due(update.number):
                policy = Policy(network, distribution, context, config.evaluate.actions)
                metrics |= yield from evaluate_and_observe(
                    update, policy, config.environment, config.evaluate, context, update.number
                )
            yield Step(
                update.number,
                metrics,
                work={"steps": steps, "frames": steps * environments.frames_per_step},
                state={"model": network, "update": update} if boundary else None,
            )
            if boundary and not last:
                actor.reset(update.number)


def saved_policy(config: Config, observations: Box, actions: Discrete | Box, context: Context) -> Policy:
    """The policy in `context.checkpoint`, as evaluations and `footplate play` have it."""
    return load_policy(config.network, observations, actions, context, config.evaluate.actions)


def evaluate(config: Config, context: Context) -> Iterator[Step]:
    """Play `config.evaluate` with the saved policy, on other seeds than those that chose the best checkpoint."""
    yield from evaluate_saved(partial(saved_policy, config), config.environment, config.evaluate, context)
