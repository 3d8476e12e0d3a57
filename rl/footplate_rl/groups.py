"""Which environments are this rank's, and the groups in which they step.

Axes: N environment of a group, O all axes of one observation, 2NU the two states of an LSTM of U units.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from footplate.context import Context
from footplate.errors import FootplateError
from footplate_rl.environments import (
    AtariConfig,
    Environments,
    GymnasiumConfig,
    Observations,
    OwnConfig,
    make_environments,
)


def own_rows(environments: int, accumulate: int, context: Context) -> slice:
    """The environments of this rank: each update's batch is cut by environments into ranks * accumulate equal pieces.

    Raises FootplateError where they can't be equal.
    """
    pieces = context.ranks * accumulate
    if environments % pieces:
        workers = "1 worker" if context.ranks == 1 else f"{context.ranks} workers"
        microbatches = "1 microbatch" if accumulate == 1 else f"{accumulate} microbatches"
        raise FootplateError(
            f"environments: {environments} can't be cut into {workers} * {microbatches}; use a multiple of {pieces}"
        )
    size = environments // context.ranks
    return slice(context.rank * size, (context.rank + 1) * size)


@dataclass
class Group:
    """Environments that step together while those of another group wait for their actions."""

    environments: Environments
    rows: slice
    """Their columns in a rollout of this rank."""
    observations_NO: Observations = field(init=False)
    """What to act on next; there once `reset` was called."""
    begins_N: NDArray[np.bool_] = field(init=False)
    """Whose observation is the first of an episode."""
    state_2NU: Tensor | None = field(init=False)
    """What a network with a memory remembers of what came before; None: nothing."""

    def reset(self, number: int) -> None:
        """Start all of them anew with the seeds of their `number`-th reset; nothing is remembered."""
        self.observations_NO = self.environments.reset(number)
        self.begins_N = np.ones(len(self.observations_NO), np.bool_)
        self.state_2NU = None


@contextmanager
def open_groups(
    config: GymnasiumConfig | OwnConfig | AtariConfig, share: slice, count: int, seed: int
) -> Iterator[list[Group]]:
    """This rank's environments in `count` groups as equal as can be, closed at the end.

    Raises FootplateError where a group would have none.
    """
    size = share.stop - share.start
    if count > size:
        raise FootplateError(
            f"groups: {size} environments of a worker can't be cut into {count} groups; use at most {size}"
        )
    edges = [size * number // count for number in range(count + 1)]
    with ExitStack() as stack:
        groups = []
        for first, stop in pairwise(edges):
            environments = make_environments(config, stop - first, first_index=share.start + first, seed=seed)
            stack.callback(environments.close)
            groups.append(Group(environments, slice(first, stop)))
        yield groups
