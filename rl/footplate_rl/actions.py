"""The check that every action passes before it reaches an environment.

Axes: N environments, A... the axes of a continuous action.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from footplate.errors import FootplateError


def checked_actions(actions: Any, space: Discrete | Box, indices: Sequence[int]) -> NDArray[Any]:
    """The actions of the environments `indices` as `space` takes them: int64 of shape (N,), or (N, A...) of a Box.

    Discrete actions count from 0. Continuous ones are clipped to the bounds, which a Gaussian policy overshoots.
    Raises FootplateError for what is no action: the native vector environment of Atari would hang on it for ever.
    """
    given = np.asarray(actions)
    shape = (len(indices), *(space.shape or ()))
    if given.shape != shape:
        raise FootplateError(f"environment: actions have shape {given.shape}; {len(indices)} environments take {shape}")
    if isinstance(space, Discrete):
        if given.dtype.kind not in "iu":
            raise FootplateError(f"environment: actions are {given.dtype}; discrete actions are integers")
        (wrong,) = np.nonzero((given < 0) | (given >= space.n))
        if len(wrong):
            index, action = indices[int(wrong[0])], given[wrong[0]]
            raise FootplateError(
                f"environment {index}: there is no action {action}; the actions are 0 to {space.n - 1}"
            )
        return given.astype(np.int64)
    finite = np.isfinite(given).reshape(len(indices), -1).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise FootplateError(f"environment {indices[row]}: the action {given[row].tolist()} is not finite")
    clipped: NDArray[Any] = np.clip(given, space.low, space.high).astype(space.dtype)
    return clipped
