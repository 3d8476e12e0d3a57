"""Where a worker finds the run folder: a path is the same for all, of a URL each machine has its own folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from footplate.folder import RunFolder, is_url

SECONDS_TO_LET_GO = 60.0
"""A process that was lost may hold its folder for a moment longer."""


@contextmanager
def seen_here(place: str, rank: int, ranks: int) -> Iterator[RunFolder]:
    """The run folder as this worker sees it; all ranks must ask. At a URL rank 0 mirrors it, and settles first what
    the others find. That a path leads to the driver's folder is for the marker to tell.
    """
    if not is_url(place):
        yield RunFolder(Path(place))
        return
    from footplate import remote

    if rank == 0:
        with remote.trained_here(place, shared=ranks > 1, patience_seconds=SECONDS_TO_LET_GO) as folder:
            folder.forget_stop()
            _wait_for_rank_0(ranks)
            yield folder
    else:
        _wait_for_rank_0(ranks)
        yield remote.helped_here(place)


def _wait_for_rank_0(ranks: int) -> None:
    if ranks > 1:
        torch.distributed.barrier()
