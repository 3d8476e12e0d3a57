"""What training meets that is no fault of its code: too little memory, and workers that are gone. Each has a name."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from footplate.errors import TrainingError

_LACK_OF_MEMORY = re.compile("allocate memory|out of memory|not enough memory|size calculation overflowed")
"""What torch says: for a GPU's memory it has an exception of its own, for the host's only these words."""
_LOST = re.compile(r"gloo/|Connection closed by peer|Connection reset by peer")
_WAITED = re.compile("timed? ?out", re.IGNORECASE)
"""What torch says: NCCL and the store have exceptions of their own, gloo only these words."""


class LostWorkerError(TrainingError):
    """Another worker has gone. That is no mistake of the job: a launcher may go on from the newest checkpoint."""


class SilentWorkerError(LostWorkerError):
    """Another worker has not answered for as long as the job waits (`faults.timeout_seconds`)."""


@contextmanager
def lack_of_memory_named() -> Iterator[None]:
    """Raise TrainingError where the block needs more memory than there is."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or _LACK_OF_MEMORY.search(str(error)):
            raise TrainingError(
                "memory: the job needs more than there is; make the model, its batches or the beam smaller, "
                "or set update.accumulate"
            ) from error
        raise


@contextmanager
def losses_named() -> Iterator[None]:
    """Raise LostWorkerError or SilentWorkerError where an exchange between workers fails inside the block."""
    try:
        yield
    except (RuntimeError, torch.distributed.DistError) as error:
        if not (isinstance(error, torch.distributed.DistError) or _LOST.search(str(error))):
            raise
        if _WAITED.search(str(error)):
            raise SilentWorkerError("another worker does not answer") from error
        raise LostWorkerError("another worker has gone") from error
