"""Environments in a batch: what a learner sees of them, whatever runs them.

Axes: N environments of this rank, K rows that were truncated, O all axes of one observation (Atari: stack, height,
width).
Counts: a *step* is one decision of the agent, a *frame* one picture of the emulator (`frames_per_step` of them a step).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, Self

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from pydantic import Field, model_validator

from footplate.section import Count, Positive, Probability, Seconds, Section, Threads, WholeNumber

Observations = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Episode:
    """An episode that came to its own end: one cut short by `Environments.reset` is never reported."""

    environment: int
    """The global index of its environment."""
    total_reward: float
    """The undiscounted, unclipped sum of its rewards (its raw return)."""
    steps: int
    """How many decisions it took."""


@dataclass(frozen=True, slots=True)
class Transitions:
    """What one step of N environments gave, the same under every autoreset mode. The arrays are the caller's to keep.

    The target of row n follows from: R_t = r_t + discount * next, where `next` is
    0 where `return_ended_N`, else V(final observation) where `truncated_N`, else what follows at t + 1.
    Rows where `valid_N` is False were no transition (an environment was being reset and ignored its action): leave them
    out of losses, counts and windows; their reward is 0 and nothing ended there.
    """

    observations_NO: Observations
    """What to act on next."""
    rewards_N: NDArray[np.float64]
    """Raw, never clipped."""
    terminated_N: NDArray[np.bool_]
    """The episode is over by the environment's own rules: nothing is worth anything after it."""
    truncated_N: NDArray[np.bool_]
    """The episode was cut by a time limit (and is not terminated): what follows still has its value."""
    return_ended_N: NDArray[np.bool_]
    """Where a return ends without bootstrapping: terminated or, under the `classic` protocol of Atari, a life lost."""
    valid_N: NDArray[np.bool_]
    final_observations_KO: Observations
    """The true last observations of the rows where `truncated_N`, in their order: `values_N[truncated_N] = V(this)`."""
    episodes: tuple[Episode, ...]
    """The episodes that came to their end in this step."""

    @property
    def begins_N(self) -> NDArray[np.bool_]:  # noqa: N802 - it ends in its axes
        """Where `observations_NO` is the first observation of an episode, or one that nobody acts on."""
        begins_N: NDArray[np.bool_] = self.terminated_N | self.truncated_N | ~self.valid_N
        return begins_N


@dataclass(frozen=True, slots=True)
class Seeds:
    """The seed of each environment at each reset, a pure function of (seed, stream, global index, reset number)."""

    seed: int
    stream: str
    indices: range
    """The global indices of the environments."""

    def at(self, number: int) -> list[int]:
        """The seeds of the `number`-th reset, each below 2^31.

        >>> Seeds(1, "environments", range(0, 4)).at(3)[2:] == Seeds(1, "environments", range(2, 4)).at(3)
        True
        """
        # Brings torch along, without which a process that only runs an environment starts faster and stays smaller.
        from footplate.streams import numpy_stream

        return [int(numpy_stream(self.seed, self.stream, index, number).integers(2**31)) for index in self.indices]

    def after_restart(self, index: int, number: int, restart: int) -> int:
        """The seed of one environment that failed after its `number`-th reset: the same one might fail again."""
        from footplate.streams import numpy_stream

        return int(numpy_stream(self.seed, f"{self.stream}/restart", index, number, restart).integers(2**31))


class Environments(Protocol):
    """N environments of one kind, stepped together."""

    count: int
    """N."""
    observation_space: Box
    """Of one environment."""
    action_space: Discrete | Box
    """Of one environment; discrete actions count from 0."""
    action_meanings: Sequence[str]
    """A word for each discrete action; empty where the environment says none."""
    frames_per_step: int
    steps_per_second: float
    """How many steps a spectator should see in a second."""
    restarts: int | None
    """How often one of them failed and was started anew since they were made; None where a failure ends the run."""

    def reset(self, number: int) -> Observations:
        """Start every environment anew with the seeds of its `number`-th reset; returns observations_NO.

        Episodes in progress are forgotten. What follows is a function of (seed, index, number, actions) alone.
        """

    def step(self, actions_N: NDArray[Any]) -> Transitions:
        """`send`, then `recv`.

        Raises FootplateError for what is no action, and TrainingError where an environment fails or hangs and can't be
        started anew.
        """

    def send(self, actions_N: NDArray[Any]) -> None:
        """Start a step; the emulators of Atari and subprocesses work on while the caller does something else."""

    def recv(self) -> Transitions:
        """Wait for the step that `send` started."""

    def render(self) -> list[NDArray[np.uint8]]:
        """A picture of each environment, (height, width, 3), the last of the episode where one has just ended.

        Only if made with `render`.
        """

    def close(self) -> None:
        """Free processes and threads; once closed an object is of no use."""


class SingleConfig(Section):
    """What is said of any environment that gymnasium's own vector environments can run.

    Observations are prepared in the order of the fields. An image (uint8, two axes or three with 1 or 3 channels last)
    ends up as (channels, height, width); what is no array is flattened, a discrete observation to one-hot.
    """

    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for making the environment."""
    frame_skip: Count = 1
    """Repeat each action this many times, sum the rewards, and show the maximum of the last two frames."""
    grayscale: bool = False
    """Turn colour images into luminance."""
    resize: tuple[Count, Count] | None = None
    """Height and width to which images are averaged down."""
    frame_stack: Count | None = None
    """Show the last so many images as the channels of one, oldest first; zeros before the first."""
    observation_scale: Literal["bounds"] | tuple[Positive, ...] | None = None
    """For what is no image: a factor for each number of an observation, or `bounds` to bring all from the bounds of the
    space to -1 to 1; null leaves them as they are. Networks take images, which stay bytes, times 1/255."""
    processes: bool = False
    """Each environment in a process of its own: worth it where a step costs more than some 0.2 ms. One that raises,
    dies, hangs or shows what is not finite is started anew, and its episode is dropped."""
    timeout_seconds: Seconds = 60.0
    """How long a step in a process may take before it counts as hung."""
    restarts_in_a_row: WholeNumber = 3
    """How often an environment in a process is started anew without an episode that came to its end in between; the
    next failure ends the run. 0: the first one does."""
    autoreset: Literal["same_step", "next_step"] = "same_step"
    """Whether a finished environment starts anew within the same step or spends one more step on it."""

    @model_validator(mode="after")
    def _only_processes_are_watched(self) -> Self:
        for key in ("timeout_seconds", "restarts_in_a_row"):
            if not self.processes and getattr(self, key) != SingleConfig.model_fields[key].default:
                raise ValueError(
                    f"{key} is for environments in processes of their own; set processes to true, or leave it out"
                )
        return self


class GymnasiumConfig(SingleConfig):
    """Any environment that gymnasium knows by id."""

    kind: Literal["gymnasium"] = "gymnasium"
    id: str
    """Such as `CartPole-v1`; `module:Name-v0` imports the module first; `footplate/Catch-v0` and others are our own."""


class OwnConfig(SingleConfig):
    """An environment class of your own."""

    kind: Literal["own"]
    name: str
    """The dotted name of a `gymnasium.Env` class or of a function that returns one: `package.module.Class`."""


class AtariConfig(Section):
    """An Atari 2600 game in ale-py's native vector environment, shown as a stack of grayscale images of 84 x 84."""

    kind: Literal["atari"]
    game: str
    """The name of the ROM, such as `pong` or `space_invaders`."""
    protocol: Literal["machado", "classic"] = "machado"
    """`machado`: sticky actions with probability 0.25, an episode is a game (Machado et al. 2018, arXiv 1709.06009, but
    for its full action set and frame skip 5). `classic`: no stickiness, 0 to 30 no-ops at the start, and a lost life
    ends the return in training only (Mnih et al. 2015, 2016). Neither presses FIRE for the agent."""
    sticky_actions: Probability | None = None
    """The probability that the emulator repeats the previous action; None: what the protocol says."""
    full_action_set: bool = False
    """All 18 actions instead of the minimal set of the game."""
    frame_skip: Count = 4
    """Frames a step."""
    frame_stack: Count = 4
    """Show the last so many images, each the maximum of a step's last two frames; oldest first, zeros at the start."""
    max_frames: Count = 108_000
    """Frames after which an episode is truncated, in whole steps: half an hour of play."""
    threads: Threads = 1
    """Emulator threads; more than the cores that are free makes it slower."""
    timeout_seconds: Seconds = 60.0
    """How long a step may take before the run ends with an error: a hung emulator thread can't be killed."""

    @property
    def stickiness(self) -> float:
        """The probability that the emulator repeats the previous action."""
        if self.sticky_actions is not None:
            return self.sticky_actions
        return 0.25 if self.protocol == "machado" else 0.0


DEBUG_ENVIRONMENT: Mapping[str, object] = {
    "environment.processes": False,
    "environment.timeout_seconds": 60.0,
    "environment.restarts_in_a_row": 3,
}
"""What `--debug` changes of any environment: a breakpoint in a process of its own would not stop."""

EnvironmentConfig = Annotated[GymnasiumConfig | OwnConfig | AtariConfig, Field(discriminator="kind")]


def name_of(config: GymnasiumConfig | OwnConfig | AtariConfig) -> str:
    """The name or id of what is played, as errors call it."""
    match config:
        case OwnConfig():
            return config.name
        case GymnasiumConfig():
            return config.id
        case AtariConfig():
            return config.game


def protocol_of(config: GymnasiumConfig | OwnConfig | AtariConfig) -> str:
    """What is played, as a score is to be read.

    >>> protocol_of(AtariConfig(kind="atari", game="pong", protocol="classic"))
    'pong, protocol classic: sticky actions 0, minimal action set, frame skip 4'
    """
    if not isinstance(config, AtariConfig):
        return name_of(config)
    actions = "full" if config.full_action_set else "minimal"
    return (
        f"{config.game}, protocol {config.protocol}: sticky actions {config.stickiness:g}, {actions} action set, "
        f"frame skip {config.frame_skip}"
    )


def make_environments(
    config: GymnasiumConfig | OwnConfig | AtariConfig,
    count: int,
    *,
    first_index: int = 0,
    seed: int = 1,
    stream: str = "environments",
    training: bool = True,
    render: bool = False,
) -> Environments:
    """`count` environments with the global indices first_index, first_index + 1, ...: the same whatever rank owns them.

    `stream` names the seeds: evaluation has its own. Where `training` is False, a lost life ends no return. With
    `render` they can be drawn; those of gymnasium are then in this process, and reset in the next step, so that the
    last picture is there.
    Raises FootplateError for an environment that does not exist, is not installed or has spaces that nothing can take.
    """
    seeds = Seeds(seed, stream, range(first_index, first_index + count))
    if isinstance(config, AtariConfig):
        from footplate_rl.atari import AtariEnvironments

        return AtariEnvironments(config, seeds, training=training, render=render)
    if config.processes and not render:
        from footplate_rl.process_environments import ProcessEnvironments

        return ProcessEnvironments(config, seeds)
    from footplate_rl.gymnasium_vector import GymnasiumEnvironments

    return GymnasiumEnvironments(config, seeds, render=render)
