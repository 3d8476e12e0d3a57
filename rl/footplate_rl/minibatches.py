"""Minibatches of a rollout: which transitions are learnt from together, the same for any number of workers.

Axes: T rollout step, N environment, M transition of a minibatch.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from footplate.context import Context


def minibatches(order: np.random.Generator, shape_TN: tuple[int, int], share: slice, count: int) -> Iterator[Tensor]:
    """The rows of each of `count` minibatches that belong to the environments `share`, as t * (its size) + n.

    The T * N transitions of all environments are put into a random order and cut, so that each is in one minibatch; a
    worker may have many of one, and few or none of another.

    >>> rows = list(minibatches(np.random.default_rng(1), (3, 4), slice(2, 4), 2))
    >>> sorted(torch.cat(rows).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    size = share.stop - share.start
    for piece in np.array_split(order.permutation(shape_TN[0] * shape_TN[1]), count):
        t, n = np.divmod(piece, shape_TN[1])
        own = (n >= share.start) & (n < share.stop)
        yield torch.from_numpy(t[own] * size + n[own] - share.start)


def normalised(advantages_M: Tensor, valid_M: Tensor, context: Context) -> Tensor:
    """(A - mean) / (deviation + 1e-8), both over the valid transitions of the minibatch on all workers.

    One transition alone has an advantage of 0. Every worker must call it.
    """
    own_M = advantages_M[valid_M].double()
    sums = context.sum(torch.stack([own_M.sum(), torch.tensor(float(len(own_M))).to(own_M)]))
    mean = sums[0] / sums[1].clamp(min=1)
    squares = context.sum((own_M - mean).square().sum())
    deviation = (squares / (sums[1] - 1).clamp(min=1)).sqrt()
    return ((advantages_M - mean) / (deviation + 1e-8)).to(advantages_M.dtype)
