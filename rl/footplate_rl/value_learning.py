"""What learners of action values from a replay share: their keys, their networks, and the lessons of a batch.

Axes: B window of a batch, N environment.
"""

from typing import Any, Self

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor, nn

from footplate.context import Context
from footplate.optimizers import Adam, Optimizer
from footplate.schedules import Constant, Schedule
from footplate.section import Count, Fraction, Positive, Section
from footplate.update import UpdateConfig
from footplate_rl.action_values import QNetwork
from footplate_rl.environments import EnvironmentConfig
from footplate_rl.evaluation import GreedyEvaluation
from footplate_rl.exploration import EpsilonGreedy
from footplate_rl.networks import Nature
from footplate_rl.policy import Policy
from footplate_rl.q_learning import HardTarget, Lessons, Target, bootstrap_values, n_step_targets
from footplate_rl.q_networks import DuelingNetwork, ValueNetwork, build_value_network
from footplate_rl.replay.kinds import ReplayConfig, UniformReplay, build_replay, rows_needed, stacked_frames
from footplate_rl.replay.replay import Batch, Replay
from footplate_rl.resets import require_that_higher_is_better


class ValueLearning(Section):
    """Keys of every learner of values; the defaults are those of Mnih et al. 2015, but for the optimizer."""

    environment: EnvironmentConfig
    """What is played."""
    batch_size: Count = 32
    """Windows an update learns from."""
    replay: ReplayConfig = UniformReplay()
    """What is kept, and how it is drawn."""
    n_step: Count = 1
    """How many rewards a target adds up before it bootstraps."""
    double: bool = False
    """Whether the network chooses the action that the target network judges (double Q-learning)."""
    dueling: bool = False
    """Whether the network's last layers part into a value and advantages."""
    discount: Fraction = 0.99
    """What a reward is worth one step later."""
    reward_clip: Positive | None = 1.0
    """Learn from rewards clipped to [-1, 1] times this; null for the true ones. Returns are reported unclipped."""
    reward_scale: Positive = 1.0
    """What multiplies each reward, once clipped, before it is learnt from: keeps errors near what `huber` squares."""
    huber: Positive | None = 1.0
    """Errors beyond this count linearly and not squared; null squares all."""
    target: Target = HardTarget()
    """How the network that targets are computed with follows."""
    network: ValueNetwork = Nature()
    """What computes the values."""
    optimizer: Optimizer = Adam(kind="adam", learning_rate=6.25e-5, epsilon=1.5e-4)
    """That of Hessel et al. 2018 (arXiv 1710.02298), which needs less tuning than the RMSProp of 2015."""
    schedule: Schedule = Constant(kind="constant")
    """What becomes of the learning rate; a plateau watches `eval/return`."""
    update: UpdateConfig = UpdateConfig()
    """How gradients become an update."""
    evaluate: GreedyEvaluation = GreedyEvaluation(every_updates=250_000, episodes=30, environments=15)
    """When and how the policy is evaluated; a multiple of `reset_every_updates`. It also happens at the end."""

    @model_validator(mode="after")
    def _has_batches_that_can_be_cut(self) -> Self:
        if self.batch_size % self.update.accumulate:
            raise ValueError(
                f"batch_size: {self.batch_size} can't be cut into update.accumulate: {self.update.accumulate} "
                f"microbatches; use a multiple of {self.update.accumulate}"
            )
        require_that_higher_is_better(self.schedule)
        return self


def require_room(config: ValueLearning, environments: int) -> None:
    """Raise ValueError where the replay is too small for a batch, or for a window of each environment."""
    transitions = config.replay.transitions
    if transitions < config.batch_size:
        raise ValueError(
            f"replay.transitions: {transitions} is less than one batch, batch_size: {config.batch_size}; use at least "
            "as many"
        )
    rows, needed = transitions // environments, rows_needed(config.n_step, stacked_frames(config.environment))
    if rows < needed:
        raise ValueError(
            f"replay.transitions: {transitions} has {rows} for each environment, and a window of n_step: "
            f"{config.n_step} takes {needed}; use at least {needed * environments}"
        )


def value_network(
    config: ValueLearning, observations: Box, actions: Discrete | Box, context: Context
) -> QNetwork | DuelingNetwork:
    """The network for these spaces on this rank's device, drawn from torch's global generator."""
    return context.place(build_value_network(config.network, observations, actions, dueling=config.dueling))


def epsilon_greedy(
    network: nn.Module, actions: Discrete | Box, epsilon_N: NDArray[np.float64] | float, context: Context
) -> Policy:
    """The policy that takes the best action, and a random one with this probability."""
    assert isinstance(actions, Discrete)
    return Policy(network, EpsilonGreedy(int(actions.n), epsilon_N), context)


def saved_policy(config: ValueLearning, observations: Box, actions: Discrete | Box, context: Context) -> Policy:
    """The policy in `context.checkpoint`, as evaluations and `footplate play` have it."""
    network = value_network(config, observations, actions, context)
    context.restore(model=network)
    return epsilon_greedy(network, actions, config.evaluate.epsilon, context)


def empty_replay(
    config: ValueLearning, kind: ReplayConfig, observations: Box, actions: Discrete | Box, environments: int
) -> Replay:
    """A replay of this kind for what this config learns from."""
    assert isinstance(actions, Discrete)
    return build_replay(
        kind,
        observations,
        int(actions.n),
        environments=environments,
        stack=stacked_frames(config.environment),
        n_step=config.n_step,
        discount=config.discount,
    )


def beta_at(config: ValueLearning, number: int, updates: int) -> float:
    """How much of the bias the weights correct in this update: `final_beta` in the last one of the planned run."""
    if isinstance(config.replay, UniformReplay):
        return 0.0
    return config.replay.beta + (config.replay.final_beta - config.replay.beta) * (number + 1) / updates


def lessons_of(
    batch: Batch, target: nn.Module, network: nn.Module, config: ValueLearning, context: Context
) -> list[Lessons]:
    """The batch with its targets, in microbatches."""

    def on_device(array: Any) -> Tensor:
        # Ray hands over memory that nobody may write to, of which torch makes no tensor without a warning.
        return torch.from_numpy(np.require(array, requirements="W")).to(context.device)

    with context.autocast():
        judged = bootstrap_values(on_device(batch.next_observations_BO), target, network if config.double else None)
    dtype = torch.float64 if context.precision == "fp64" else torch.float32
    returns_B, bootstraps_B, weights_B = (
        on_device(array).to(dtype) for array in (batch.returns_B, batch.bootstraps_B, batch.weights_B)
    )
    targets_B = n_step_targets(returns_B, bootstraps_B, judged.to(dtype))
    whole = on_device(batch.observations_BO), on_device(batch.actions_B), targets_B, weights_B
    pieces = (tensor.chunk(config.update.accumulate) for tensor in whole)
    return [Lessons(*piece) for piece in zip(*pieces, strict=True)]
