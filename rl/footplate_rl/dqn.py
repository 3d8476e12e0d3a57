"""DQN: values of actions learnt from a replay; double, dueling, n-step and prioritised by a key each.

Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning" (Nature 518), algorithm 1; the
others are named where they are. `docs/dqn.md` says where this differs.

Environments can't be cloned, so all of them start anew every `reset_every_updates`: only there a run can be saved.

Axes: T step, N environment, B window of a batch.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from copy import deepcopy
from functools import partial

import torch
from pydantic import model_validator

from footplate.context import Context
from footplate.errors import TrainingError
from footplate.job import Job
from footplate.section import Count
from footplate.step import Activity, Step
from footplate.update import Update
from footplate_rl.distributions import require_float64
from footplate_rl.environments import DEBUG_ENVIRONMENT, make_environments
from footplate_rl.evaluation import evaluate_and_observe, evaluate_saved, policy_metrics
from footplate_rl.explorer import Explorer, FallingEpsilon
from footplate_rl.q_learning import ReplayLoss
from footplate_rl.ranks import require_one_learner
from footplate_rl.resets import (
    require_evaluations_at_resets,
    require_saves_at_resets,
)
from footplate_rl.rollout import episode_metrics, restart_metrics
from footplate_rl.value_learning import (
    ValueLearning,
    beta_at,
    empty_replay,
    epsilon_greedy,
    lessons_of,
    require_room,
    saved_policy,
    value_network,
)
from footplate_rl.watching import require_that_it_can_be_filmed

_STEPS_BETWEEN_NEWS = 100


class Config(ValueLearning):
    """The defaults are those of Mnih et al. 2015, for Atari, but for the optimizer."""

    steps: Count = 50_000_000
    """The budget: decisions of the agent, over all environments (on Atari four emulator frames each)."""
    environments: Count = 1
    """How many environments are played at once."""
    rollout_steps: Count = 4
    """Steps of each environment between two rounds of learning, the train frequency."""
    updates_per_rollout: Count = 1
    """How many updates a round of learning has."""
    learning_starts_steps: Count = 50_000
    """Steps, over all environments, before the first round."""
    exploration: FallingEpsilon = FallingEpsilon()
    """How often a random action is taken."""
    reset_every_updates: Count = 50_000
    """All environments start anew after so many updates. Checkpoints fall only there: a stopped run goes on from
    the last, and `save.every_updates` is a multiple. Episodes cut this way bootstrap from where they stood, and no
    statistic counts them: make it several times the longest one, in steps of each environment."""

    @property
    def updates(self) -> int:
        """How many updates the budget pays for."""
        rounds = (self.steps - self.fill_steps * self.environments) // (self.environments * self.rollout_steps)
        return max(0, rounds) * self.updates_per_rollout

    @property
    def fill_steps(self) -> int:
        """Steps of each environment before learning starts."""
        return -(-self.learning_starts_steps // self.environments)

    @model_validator(mode="after")
    def _is_consistent(self) -> "Config":
        if self.updates == 0:
            least = self.environments * (self.fill_steps + self.rollout_steps)
            raise ValueError(
                f"steps: {self.steps} pays for no update, the first one comes after learning_starts_steps and a "
                f"rollout, {least} steps; use at least as many"
            )
        if self.exploration.final > self.exploration.initial:
            raise ValueError(
                f"exploration.final: {self.exploration.final:g} is above initial: {self.exploration.initial:g}; "
                "make it the smaller one"
            )
        return self

    @model_validator(mode="after")
    def _has_a_replay_that_can_be_drawn_from(self) -> "Config":
        require_room(self, self.environments)
        if self.fill_steps + self.rollout_steps <= self.n_step:
            raise ValueError(
                f"learning_starts_steps: {self.learning_starts_steps} fills no window of n_step: {self.n_step}; use at "
                f"least {self.environments * (self.n_step + 1)}"
            )
        return self

    @model_validator(mode="after")
    def _can_be_saved_where_it_is_evaluated(self) -> "Config":
        if self.reset_every_updates % self.updates_per_rollout:
            raise ValueError(
                f"reset_every_updates: {self.reset_every_updates} is no multiple of updates_per_rollout: "
                f"{self.updates_per_rollout}, and environments can't start anew in the middle of a round; make it one"
            )
        require_evaluations_at_resets(self.evaluate.every_updates, self.reset_every_updates)
        return self


DEBUG_OVERRIDES: Mapping[str, object] = {
    "steps": 160,
    "environments": 2,
    "rollout_steps": 2,
    "updates_per_rollout": 1,
    "learning_starts_steps": 100,
    "batch_size": 8,
    "replay.transitions": 1000,
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
    """Raise ValueError where there would be several learners, checkpoints would be rare, or nothing can be filmed."""
    assert isinstance(job.config, Config)
    require_one_learner(job, "DQN has one learner")
    require_saves_at_resets(job, job.config.reset_every_updates)
    require_float64(job)
    require_that_it_can_be_filmed(job)


def train(config: Config, context: Context) -> Iterator[Step]:
    """One step for each update; `state` at those after which the environments start anew."""
    with closing(make_environments(config.environment, config.environments, seed=context.seed)) as environments:
        context.seed_torch("initialise")
        network = value_network(config, environments.observation_space, environments.action_space, context)
        target = deepcopy(network).requires_grad_(False)
        loss = ReplayLoss(network, config.huber)
        update = Update(loss, config.optimizer, config.schedule, config.update, context, updates=config.updates)
        spaces = environments.observation_space, environments.action_space
        replay = empty_replay(config, config.replay, *spaces, config.environments)
        policy = epsilon_greedy(network, environments.action_space, config.exploration.initial, context)
        explorer = Explorer(environments, policy, replay, config.reward_clip, config.reward_scale)
        context.restore(model=network, target=target, update=update, replay=replay)
        explorer.reset(update.number)
        if update.number == 0:
            yield from _fill(explorer, config, context)

        while update.number < config.updates:
            if update.number % config.updates_per_rollout == 0:
                rollout = update.number // config.updates_per_rollout
                steps = rollout * config.rollout_steps * config.environments
                epsilon = config.exploration.at(steps * environments.frames_per_step)
                explorer.policy = epsilon_greedy(network, environments.action_space, epsilon, context)
                explorer.play(context.stream("act", rollout).random((config.rollout_steps, config.environments)))
            if not len(replay):
                raise TrainingError(
                    "replay: there is nothing to learn from, every step so far was lost with its environment; mend that"
                )
            batch = replay.sample(
                config.batch_size,
                context.stream("replay", update.number),
                beta_at(config, update.number, config.updates),
            )
            loss.errors.clear()
            metrics = update(lessons_of(batch, target, network, config, context))
            replay.update(batch.rows_B, torch.cat(loss.errors).abs().cpu().numpy())
            config.target.follow(target, network, update.number)
            metrics |= {"train/epsilon": epsilon, **episode_metrics(explorer.episodes, context)}
            metrics |= restart_metrics([environments], context)
            steps, explorer.transitions, explorer.episodes = explorer.transitions, 0, []

            last = update.number == config.updates
            boundary = last or update.number % config.reset_every_updates == 0
            if last or config.evaluate.due(update.number):
                greedy = epsilon_greedy(network, environments.action_space, config.evaluate.epsilon, context)
                metrics |= yield from evaluate_and_observe(
                    update, greedy, config.environment, config.evaluate, context, update.number
                )
            if boundary:
                explorer.cut()
            yield Step(
                update.number,
                metrics,
                work={"steps": steps, "frames": steps * environments.frames_per_step},
                state={"model": network, "target": target, "update": update, "replay": replay} if boundary else None,
            )
            if boundary and not last:
                explorer.reset(update.number)


def evaluate(config: Config, context: Context) -> Iterator[Step]:
    """Play `config.evaluate` with the saved policy, on other seeds than those that chose the best checkpoint."""
    yield from evaluate_saved(partial(saved_policy, config), config.environment, config.evaluate, context)


def _fill(explorer: Explorer, config: Config, context: Context) -> Iterator[Step]:
    """Play until learning starts, with news of progress."""
    for first in range(0, config.fill_steps, _STEPS_BETWEEN_NEWS):
        steps = min(_STEPS_BETWEEN_NEWS, config.fill_steps - first)
        explorer.play(context.stream("fill", first).random((steps, config.environments)))
        yield Step(0, activity=Activity("fill the replay", first + steps, config.fill_steps))
