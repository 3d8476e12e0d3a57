"""What asynchronous agents share: their keys, how updates are handed out to workers, and the update of one worker.

Every update of the run has a number, and exactly one worker makes it: the number gives the random numbers of its
rollout and its learning rate. Which worker gets which number follows from who is free, and so from time.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from math import isfinite, sqrt
from typing import NamedTuple

import torch
from gymnasium.spaces import Box, Discrete
from pydantic import model_validator
from torch import Tensor

from footplate.context import Context
from footplate.errors import FootplateError, TrainingError
from footplate.job import Job
from footplate.optimizers import RmsProp
from footplate.pool import Pool, Replacements, WorkerDiedError
from footplate.schedules import Linear, Plateau, Schedule, build_schedule
from footplate.section import Count, Fraction, Positive, Section, WholeNumber
from footplate.shared_parameters import Parameters
from footplate.step import Latest, Mean, Metric
from footplate.update import LossTerms
from footplate_rl.environments import (
    AtariConfig,
    EnvironmentConfig,
    Episode,
    GymnasiumConfig,
    OwnConfig,
    make_environments,
)
from footplate_rl.networks import NIPS, Network
from footplate_rl.ranks import require_one_learner
from footplate_rl.replacing import replace
from footplate_rl.resets import require_saves_at_resets
from footplate_rl.rollout import Rollout, means_of
from footplate_rl.watching import require_that_it_can_be_filmed


class AsynchronousConfig(Section):
    """Keys of every asynchronous agent; the defaults are for Atari."""

    steps: Count = 80_000_000
    """The budget: decisions of the agent, over all environments (on Atari four emulator frames each)."""
    environment: EnvironmentConfig
    """What is played."""
    workers: Count = 16
    """How many learn at the same time, each with environments of its own: as many as there are cores, or fewer."""
    environments: Count = 1
    """How many environments each worker plays at once."""
    processes: bool = True
    """Each worker in a process of its own; false: one after another in this one, where breakpoints stop."""
    rollout_steps: Count = 5
    """Steps of each environment for an update, t_max."""
    discount: Fraction = 0.99
    """What a reward is worth one step later."""
    reward_clip: Positive | None = 1.0
    """Learn from rewards clipped to [-1, 1] times this; null for the true ones. Returns are reported unclipped."""
    reward_scale: Positive = 1.0
    """What multiplies each reward, once clipped, before it is learnt from: keeps values and gradients near 1."""
    network: Network = NIPS()
    """The hidden layers."""
    optimizer: RmsProp = RmsProp(
        kind="rmsprop", learning_rate=0.0007, decay=0.99, epsilon=0.1, epsilon_inside_root=True
    )
    """One statistic for all workers: the paper's shared RMSProp."""
    schedule: Schedule = Linear(kind="linear")
    """What becomes of the learning rate, over the updates of all workers."""
    clip_norm: Positive | None = 40.0
    """The largest L2 norm that the gradient of a rollout may have; a longer one is scaled down to it."""
    round_updates: Count = 20
    """How many updates a worker is given at a time, and what a report of progress counts."""
    replace_workers: WholeNumber = 10
    """How many workers whose process dies are replaced before the run ends; what a worker raises ends it at once."""
    reset_every_updates: Count = 100_000
    """After so many updates of all workers together they rest, and all environments start anew. Checkpoints and
    evaluations fall only there. Episodes cut this way bootstrap, and no statistic counts them: make it several times
    the longest one, in steps of each environment."""

    @property
    def updates(self) -> int:
        """How many updates the budget pays for, in whole rounds."""
        return self.steps // (self.environments * self.rollout_steps * self.round_updates) * self.round_updates

    @model_validator(mode="after")
    def _is_in_whole_rounds(self) -> "AsynchronousConfig":
        if self.updates == 0:
            raise ValueError(
                f"steps: {self.steps} pays for no round, each takes environments * rollout_steps * round_updates = "
                f"{self.environments * self.rollout_steps * self.round_updates}; use at least as many"
            )
        if self.reset_every_updates % self.round_updates:
            raise ValueError(
                f"reset_every_updates: {self.reset_every_updates} is no multiple of round_updates: "
                f"{self.round_updates}, which a worker makes at a time; make it one"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> "AsynchronousConfig":
        if isinstance(self.schedule, Plateau):
            raise ValueError(
                "schedule.kind: plateau waits for evaluations, of which asynchronous workers hear nothing; "
                "use another schedule"
            )
        if not isinstance(self.environment, AtariConfig) and self.environment.processes:
            raise ValueError(
                "environment.processes: workers are processes that play their own environments; set it to false"
            )
        return self


def check_asynchronous(job: Job) -> None:
    """Raise ValueError where the job asks for reports, checkpoints or a precision that there can't be."""
    assert isinstance(job.config, AsynchronousConfig)
    require_one_learner(job, "an asynchronous agent has workers of its own", "workers")
    require_saves_at_resets(job, job.config.reset_every_updates)
    size, rows = job.config.round_updates, job.track.every_updates
    if rows % size and size % rows:
        raise ValueError(
            f"track.every_updates: {rows} is no multiple of round_updates: {size}, by which progress is counted; "
            "make it one"
        )
    if job.precision not in ("fp32", "fp64"):
        raise ValueError(f"precision: {job.precision} is not for asynchronous workers; use fp32 or fp64")
    require_that_it_can_be_filmed(job)


def spaces_of(
    environment: GymnasiumConfig | OwnConfig | AtariConfig, context: Context
) -> tuple[tuple[Box, Discrete | Box], int]:
    """The spaces of observations and actions, and the frames of a step: what the environment of one worker has.

    Raises FootplateError where parameters can't be shared between processes, and for a wrong environment.
    """
    if context.ranks > 1:
        raise FootplateError(
            f"resources.workers: {context.ranks} can't share an asynchronous agent, which has workers of its own; use 1"
        )
    if context.device.type != "cpu":
        raise FootplateError(
            f"device: asynchronous workers share parameters in the CPU's memory, not on {context.device.type}; "
            "set device=cpu"
        )
    with closing(make_environments(environment, 1, seed=context.seed)) as environments:
        return (environments.observation_space, environments.action_space), environments.frames_per_step


class Report(NamedTuple):
    """What a worker did in a round, as plain numbers."""

    updates: int
    steps: int
    means: dict[str, tuple[float, float]]
    """Totals and counts of metrics."""
    episodes: list[Episode]
    replaced: int = 0
    """How many workers had been replaced by then."""

    def metrics(self) -> dict[str, Metric]:
        """Its metrics, the returns and lengths of its episodes among them."""
        return {
            **{name: Mean(*mean) for name, mean in self.means.items()},
            **means_of(self.episodes),
            "train/replaced_workers": Latest(float(self.replaced)),
        }

    def work(self, frames_per_step: int) -> dict[str, int]:
        """What it consumed."""
        return {"steps": self.steps, "frames": self.steps * frames_per_step}


def rounds(pool: Pool, done: int, config: AsynchronousConfig) -> Iterator[tuple[int, Report]]:
    """All updates from `done` on: what a worker reports, and how many updates of the run have been made by then.

    At each multiple of `reset_every_updates`, and at the end, every worker rests while the caller has the report.
    """
    replacements = Replacements(pool, config.replace_workers)
    while done < config.updates:
        boundary = min(config.updates, (done // config.reset_every_updates + 1) * config.reset_every_updates)
        for report in hand_out(pool, replacements, range(done, boundary), config.round_updates):
            done += report.updates
            if done == boundary:
                pool.pause()
            yield done, report._replace(replaced=replacements.count)


def hand_out(pool: Pool, replacements: Replacements, updates: range, size: int) -> Iterator[Report]:
    """Reset the workers, then let them make the updates with these numbers, `size` at a time, whoever is free next.

    Yields what they report, in the order in which they finish; at the last report all rest. Each has the methods
    `reset(number)` and `learn(first, count)`. What they raise is raised here. The round of a worker that dies is made
    anew, whatever it has pushed of it, by whoever is free; its successor begins with other seeds than those it died on.
    """
    left = deque(updates[first : first + size] for first in range(0, len(updates), size))
    at_work: dict[Future[Report | None], tuple[int, range | None]] = {}
    for worker in range(pool.count):
        at_work[pool.submit(worker, "reset", updates.start)] = worker, None
    idle: list[int] = []
    while at_work:
        done, _ = wait(at_work, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=lambda one: at_work[one]):
            worker, numbers = at_work.pop(future)
            report = None
            try:
                report = future.result()
                idle.append(worker)
            except WorkerDiedError as death:
                replace(replacements, worker, death)
                at_work[pool.submit(worker, "reset", updates.start + replacements.count)] = worker, None
                if numbers is not None:
                    left.appendleft(numbers)
            while left and idle:
                following, numbers = idle.pop(0), left.popleft()
                at_work[pool.submit(following, "learn", numbers.start, len(numbers))] = following, numbers
            if report is not None:
                yield report


class Learning:
    """The updates of one worker: pull, play and reckon, clip, push."""

    def __init__(
        self, config: AsynchronousConfig, shared: Parameters, parameters: Sequence[Tensor], updates: int
    ) -> None:
        """`parameters` are the worker's own copy; `updates` is the horizon of the schedule."""
        self._shared, self._parameters = shared, list(parameters)
        self._clip_norm, self._learning_rate = config.clip_norm, config.optimizer.learning_rate
        self._rate = build_schedule(config.schedule, updates)

    def round(self, first: int, count: int, play: Callable[[int], tuple[Rollout, LossTerms]]) -> Report:
        """Make the updates `first` to `first + count - 1`; `play` gives the rollout of a number, and its loss.

        The gradient is that of the sum over the rollout, as in algorithm S3 of Mnih et al. 2016. Raises TrainingError
        where it is not finite.
        """
        means: dict[str, tuple[float, float]] = {}
        steps, episodes = 0, []
        for number in range(first, first + count):
            version = self._shared.pull(self._parameters)
            rollout, terms = play(number)
            gradients = torch.autograd.grad(terms.total, self._parameters)
            norm = self._clip(gradients, number)
            rate = self._learning_rate * self._rate.factor(number + 1)
            others = self._shared.push(gradients, rate) - version
            metrics = {
                "train/loss": Mean(terms.total.detach(), terms.count),
                **terms.metrics,
                "train/grad_norm": Mean(norm, 1),
                "train/learning_rate": Mean(rate, 1),
                "train/staleness": Mean(float(others), 1),
            }
            for name, metric in metrics.items():
                total, counted = means.get(name, (0.0, 0.0))
                means[name] = total + float(metric.total), counted + float(metric.count)
            steps += rollout.transitions
            episodes += rollout.episodes
        return Report(count, steps, means, episodes)

    def _clip(self, gradients: Sequence[Tensor], number: int) -> float:
        """Scale the gradients down where they are too long; returns their norm from before."""
        norm = sqrt(sum(float(one) ** 2 for one in torch._foreach_norm(list(gradients))))
        if not isfinite(norm):
            clip = " or set clip_norm" if self._clip_norm is None else ""
            raise TrainingError(f"update {number + 1}: the gradient is not finite; lower optimizer.learning_rate{clip}")
        if self._clip_norm is not None and norm > self._clip_norm:
            torch._foreach_mul_(list(gradients), self._clip_norm / norm)
        return norm
