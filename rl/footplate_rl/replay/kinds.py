"""The kinds of replay that a recipe can ask for."""

from typing import Annotated, Literal

from gymnasium.spaces import Box
from pydantic import Field

from footplate.section import Count, Fraction, Positive, Probability, Section
from footplate_rl.environments import AtariConfig, GymnasiumConfig, OwnConfig
from footplate_rl.replay.frames import CompressedFrames, Frames, PlainFrames
from footplate_rl.replay.rank import Ranked
from footplate_rl.replay.replay import Replay
from footplate_rl.replay.ring import Ring
from footplate_rl.replay.selection import Proportional, Selection, Uniform


class _Memory(Section):
    """What every kind can be told."""

    transitions: Count = 1_000_000
    """How many of the newest steps are kept, over all environments; the last observation of an episode that is
    truncated takes the place of one."""
    compression: Literal["zlib"] | None = None
    """`zlib` compresses each frame: a small part of the memory, and some 20 microseconds for every frame drawn."""


class UniformReplay(_Memory):
    """Every window is as probable as the others."""

    kind: Literal["uniform"] = "uniform"


class _Prioritised(_Memory):
    """Windows are drawn by the error that was found when they were last learnt from."""

    alpha: Fraction
    """How much priorities matter; at 0 not at all."""
    beta: Fraction
    """How much of the bias that this brings is corrected, at first; it moves in a straight line to `final_beta`."""
    final_beta: Fraction = 1.0
    """How much of it is corrected in the last update of the planned run; Ape-X keeps to 0.4."""
    uniform_mix: Probability = 1e-3
    """The probability with which a row of the batch is drawn uniformly all the same."""


class ProportionalReplay(_Prioritised):
    """The probability is proportional to (|delta| + epsilon)^alpha."""

    kind: Literal["proportional"] = "proportional"
    alpha: Fraction = 0.6
    """How much priorities matter; at 0 not at all."""
    beta: Fraction = 0.4
    """How much of the bias that this brings is corrected, at first; it moves in a straight line to `final_beta`."""
    epsilon: Positive = 1e-6
    """Added to |delta|, so that what has no error is drawn again some day."""


class RankReplay(_Prioritised):
    """The probability is proportional to 1 / rank^alpha, rank 1 being the largest |delta|."""

    kind: Literal["rank"] = "rank"
    alpha: Fraction = 0.7
    """How much priorities matter; at 0 not at all."""
    beta: Fraction = 0.5
    """How much of the bias that this brings is corrected, at first; it moves in a straight line to `final_beta`."""


ReplayKind = UniformReplay | ProportionalReplay | RankReplay
ReplayConfig = Annotated[ReplayKind, Field(discriminator="kind")]


def stacked_frames(environment: GymnasiumConfig | OwnConfig | AtariConfig) -> int:
    """How many frames one observation of this environment shows."""
    return environment.frame_stack or 1


def rows_needed(n_step: int, stack: int) -> int:
    """The fewest rows of one environment that hold a window: its frames, its transitions, and what it led to."""
    return n_step + stack + 1


def build_replay(
    config: ReplayKind, space: Box, actions: int, environments: int, stack: int, n_step: int, discount: float
) -> Replay:
    """An empty replay for environments of this observation space whose observations are stacks of so many frames."""
    ring = Ring(environments, config.transitions // environments, n_step, stack)
    shape = (space.shape[0] // stack, *space.shape[1:]) if stack > 1 else space.shape
    frames: Frames = (PlainFrames if config.compression is None else CompressedFrames)(ring.rows, shape, space.dtype)
    return Replay(frames, ring, selection_of(config, ring.rows), discount, actions)


def selection_of(config: ReplayKind, rows: int) -> Selection:
    """How rows are drawn."""
    if isinstance(config, ProportionalReplay):
        return Proportional(rows, config.alpha, config.epsilon, config.uniform_mix)
    if isinstance(config, RankReplay):
        return Ranked(rows, config.alpha, config.uniform_mix)
    return Uniform(rows)
