"""PPO: proximal policy optimization. A rollout of all environments is learnt from for some epochs, in minibatches.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms" (arXiv 1707.06347), algorithm 1. An *update* of
the run is one rollout with all the gradient steps on it. As for PAAC, all environments start anew every
`reset_every_updates`: only there a run can be saved.

Axes: T rollout step, N environment of this rank, M transition of a minibatch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial

import torch
from gymnasium.spaces import Box, Discrete
from pydantic import model_validator

from footplate.context import Context
from footplate.job import Job
from footplate.optimizers import Adam, Optimizer
from footplate.schedules import Linear, Schedule
from footplate.section import Count, Fraction, NonNegative, Positive, Section, Threads
from footplate.step import Latest, Mean, Metric, Step, metric_value
from footplate.update import Update, UpdateConfig
from footplate_rl.actor import Actor
from footplate_rl.clipped_loss import ClippedLoss, ClippedMicrobatch, ClippedWeights
from footplate_rl.distributions import Distribution, distribution_of, require_float64
from footplate_rl.environments import DEBUG_ENVIRONMENT, EnvironmentConfig
from footplate_rl.evaluation import Evaluation, evaluate_and_observe, evaluate_saved, policy_metrics
from footplate_rl.groups import open_groups, own_rows
from footplate_rl.minibatches import minibatches, normalised
from footplate_rl.networks import Nature, Network, build_network
from footplate_rl.policy import Policy, load_policy
from footplate_rl.ranks import require_even_shares
from footplate_rl.resets import (
    require_evaluations_at_resets,
    require_saves_at_resets,
    require_that_higher_is_better,
)
from footplate_rl.returns import GAE
from footplate_rl.rollout import Rollout, episode_metrics, restart_metrics
from footplate_rl.watching import require_that_it_can_be_filmed


class Config(Section):
    """The defaults are the paper's for Atari, but for `anneal_clip` and its value weight of 1."""

    steps: Count = 10_000_000
    """The budget: decisions of the agent, over all environments (on Atari four emulator frames each)."""
    environment: EnvironmentConfig
    """What is played."""
    environments: Count = 8
    """How many environments are played at once; the workers of a cluster share them."""
    groups: Count = 1
    """Into how many groups each worker cuts its environments: while the emulators of one are at work, the network acts
    for the next. For Atari and for environments in processes; what is computed stays the same up to rounding."""
    acting_threads: Threads = 1
    """torch's threads while emulators run beside; learning has the job's `threads`."""
    rollout_steps: Count = 128
    """Steps of each environment between two updates."""
    epochs: Count = 3
    """How often each transition of a rollout is learnt from."""
    minibatches: Count = 4
    """Into how many minibatches an epoch is cut, each a step of the optimizer."""
    discount: Fraction = 0.99
    """What a reward is worth one step later."""
    trace: Fraction = 0.95
    """Lambda of generalised advantage estimation: 1 looks to the end of the rollout, 0 one step ahead."""
    reward_clip: Positive | None = 1.0
    """Learn from rewards clipped to [-1, 1] times this; null for the true ones. Returns are reported unclipped."""
    reward_scale: Positive = 1.0
    """What multiplies each reward, once clipped, before it is learnt from: keeps values and gradients near 1."""
    network: Network = Nature(kind="nature", initialiser="orthogonal")
    """What computes policy and value."""
    clip_ratio: Positive = 0.1
    """How far the probability of an action may move, as a share of what it was, and still earn more."""
    anneal_clip: bool = False
    """Let the clip fall in a straight line to 0 over the run, as the paper has it for Atari."""
    clip_values: Positive | None = None
    """How far a value may move from what it was and still lower its error; null for as far as it likes."""
    normalise_advantages: bool = True
    """Bring the advantages of each minibatch to mean 0 and deviation 1."""
    entropy_weight: NonNegative = 0.01
    """How much a nat of the policy's entropy is worth."""
    value_weight: NonNegative = 0.5
    """The weight of the squared error of the value."""
    stop_kl: Positive | None = None
    """Leave out the rest of an update once a minibatch's policy is so many nats from the one that acted."""
    optimizer: Optimizer = Adam(kind="adam", learning_rate=0.00025, epsilon=1e-5)
    """What makes the gradient steps."""
    schedule: Schedule = Linear(kind="linear")
    """What becomes of the learning rate, gradient step by gradient step; its keys count updates all the same. A plateau
    watches `eval/return`."""
    update: UpdateConfig = UpdateConfig(clip_norm=0.5)
    """How gradients become a step."""
    evaluate: Evaluation = Evaluation(every_updates=1_000, episodes=30, environments=15)
    """When and how the policy is evaluated; a multiple of `reset_every_updates`. It also happens at the end."""
    reset_every_updates: Count = 100
    """All environments start anew after so many updates. Checkpoints fall only there: a stopped run goes on from
    the last, and `save.every_updates` is a multiple. Episodes cut this way bootstrap from the value of where they
    stood, and no statistic counts them: make it several times the longest one, in steps of each environment."""

    @property
    def updates(self) -> int:
        """How many updates the budget pays for."""
        return self.steps // (self.environments * self.rollout_steps)

    def clip_ratio_at(self, number: int) -> float:
        """The clip of the ratio in the update with this number; the first one is 0."""
        return self.clip_ratio * (1 - number / self.updates) if self.anneal_clip else self.clip_ratio

    @property
    def gradient_steps(self) -> int:
        """How many steps of the optimizer an update has, where nothing stops it."""
        return self.epochs * self.minibatches

    @property
    def schedule_in_gradient_steps(self) -> Schedule:
        """The schedule as the optimizer counts: what is told in updates of the run, in gradient steps."""
        told = {key: getattr(self.schedule, key, None) for key in ("updates", "warmup_updates", "every_updates")}
        return self.schedule.model_copy(update={key: n * self.gradient_steps for key, n in told.items() if n})

    @model_validator(mode="after")
    def _is_consistent(self) -> "Config":
        transitions = self.environments * self.rollout_steps
        if self.updates == 0:
            raise ValueError(
                f"steps: {self.steps} pays for no update, each takes environments * rollout_steps = {transitions}; "
                "use at least as many"
            )
        if self.minibatches * self.update.accumulate > transitions:
            raise ValueError(
                f"minibatches: {transitions} transitions can't be cut into {self.minibatches} * update.accumulate: "
                f"{self.update.accumulate} pieces; use fewer"
            )
        if self.normalise_advantages and 2 * self.minibatches > transitions:
            raise ValueError(
                f"normalise_advantages: of {self.minibatches} minibatches of {transitions} transitions some have only "
                f"one, whose advantage becomes 0; use at most {transitions // 2} minibatches, or set it to false"
            )
        if self.groups > self.environments:
            raise ValueError(
                f"groups: {self.environments} environments can't be cut into {self.groups} groups; use at most "
                f"{self.environments}"
            )
        require_that_higher_is_better(self.schedule)
        require_evaluations_at_resets(self.evaluate.every_updates, self.reset_every_updates)
        return self


DEBUG_OVERRIDES: Mapping[str, object] = {
    "steps": 160,
    "environments": 4,
    "groups": 1,
    "rollout_steps": 4,
    "epochs": 2,
    "minibatches": 2,
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
    require_even_shares(job, job.config.environments, job.config.groups)
    require_saves_at_resets(job, job.config.reset_every_updates)
    require_float64(job)
    require_that_it_can_be_filmed(job)


def train(config: Config, context: Context) -> Iterator[Step]:
    """One step for each update; `state` at those after which the environments start anew."""
    share = own_rows(config.environments, 1, context)
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
        weights = ClippedWeights(config.clip_ratio, config.clip_values, config.value_weight, config.entropy_weight)
        loss = ClippedLoss(network, distribution, weights)
        horizon = config.updates * config.gradient_steps
        schedule = config.schedule_in_gradient_steps
        update = Update(loss, config.optimizer, schedule, config.update, context, horizon, unit="gradient step")
        context.restore(model=network, update=update)
        number = update.number // config.gradient_steps
        actor.reset(number)

        while number < config.updates:
            rollout = actor.rollout(network, number)
            loss.weights = weights._replace(clip_ratio=config.clip_ratio_at(number))
            metrics = learn(update, rollout, distribution, share, number, config, context)
            number += 1
            update.skip_to(number * config.gradient_steps)
            metrics |= episode_metrics(rollout.episodes, context)
            metrics |= restart_metrics([group.environments for group in groups], context)
            steps = int(context.sum(torch.tensor(rollout.transitions)))

            last = number == config.updates
            boundary = last or number % config.reset_every_updates == 0
            if last or config.evaluate.due(number):
                policy = Policy(network, distribution, context, config.evaluate.actions)
                metrics |= yield from evaluate_and_observe(
                    update, policy, config.environment, config.evaluate, context, number
                )
            yield Step(
                number,
                metrics,
                work={"steps": steps, "frames": steps * environments.frames_per_step},
                state={"model": network, "update": update} if boundary else None,
            )
            if boundary and not last:
                actor.reset(number)


def learn(
    update: Update,
    rollout: Rollout,
    distribution: Distribution,
    share: slice,
    number: int,
    config: Config,
    context: Context,
) -> dict[str, Metric]:
    """Learn from the rollout of this number; the metrics of all gradient steps, and how many of them there were."""
    batch = transitions_of(rollout, distribution, config)
    shape_TN = config.rollout_steps, config.environments
    reports: list[dict[str, Metric]] = []
    for epoch in range(config.epochs):
        order = context.stream("order", number, epoch)
        for rows_M in minibatches(order, shape_TN, share, config.minibatches):
            rows_M = rows_M.to(batch.valid_M.device)
            advantages_M = batch.advantages_M[rows_M]
            if config.normalise_advantages:
                advantages_M = normalised(advantages_M, batch.valid_M[rows_M], context)
            minibatch = ClippedMicrobatch(*(part[rows_M] for part in batch))._replace(advantages_M=advantages_M)
            pieces = zip(*(part.tensor_split(config.update.accumulate) for part in minibatch), strict=True)
            reports.append(update([ClippedMicrobatch(*piece) for piece in pieces]))
            divergence = metric_value(reports[-1]["train/kl"])
            if config.stop_kl is not None and divergence is not None and divergence > config.stop_kl:
                return _together(reports)
    return _together(reports)


def transitions_of(rollout: Rollout, distribution: Distribution, config: Config) -> ClippedMicrobatch:
    """The rollout as one batch, T after T, with generalised advantages and the returns that they stand for."""
    returns_TN = rollout.returns(config.discount, config.reward_clip, config.reward_scale, GAE(trace=config.trace))
    values_TN = rollout.values_SN[:-1]
    actions_MX = rollout.actions_TNX.flatten(0, 1)
    return ClippedMicrobatch(
        observations=rollout.observations_TNO.flatten(0, 1),
        actions_MX=actions_MX,
        log_policy_M=distribution.evaluate(rollout.outputs_TNP.flatten(0, 1), actions_MX)[0],
        values_M=values_TN.flatten(),
        advantages_M=(returns_TN - values_TN).flatten(),
        returns_M=returns_TN.flatten(),
        valid_M=rollout.valid_M,
    )


def _together(reports: Sequence[Mapping[str, Metric]]) -> dict[str, Metric]:
    """The metrics of several gradient steps as those of one update."""
    together: dict[str, Metric] = {"train/gradient_steps": float(len(reports))}
    for name, last in reports[-1].items():
        each = [report[name] for report in reports]
        if isinstance(last, Latest):
            together[name] = last
        elif isinstance(last, Mean):
            together[name] = Mean(
                sum(one.total for one in each if isinstance(one, Mean)),
                sum(one.count for one in each if isinstance(one, Mean)),
            )
        else:
            together[name] = Mean(sum(metric_value(one) or 0.0 for one in each), len(each))
    return together


def saved_policy(config: Config, observations: Box, actions: Discrete | Box, context: Context) -> Policy:
    """The policy in `context.checkpoint`, as evaluations and `footplate play` have it."""
    return load_policy(config.network, observations, actions, context, config.evaluate.actions)


def evaluate(config: Config, context: Context) -> Iterator[Step]:
    """Play `config.evaluate` with the saved policy, on other seeds than those that chose the best checkpoint."""
    yield from evaluate_saved(partial(saved_policy, config), config.environment, config.evaluate, context)
