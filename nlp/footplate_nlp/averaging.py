"""Averages of checkpoints: the mean of the weights of the last few often translates better than any one of them.

Source: Vaswani et al. 2017, "Attention is all you need", section 6.1 (the last 5, or 20, checkpoints).
"""

from collections.abc import Sequence

from torch import Tensor

from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.errors import CheckpointError


def average_checkpoints(checkpoints: Sequence[Checkpoint], part: str = "model") -> dict[str, Tensor]:
    """The state of one module, each number the mean over the checkpoints; what isn't a real number is the last one's.

    Sums are taken in float64: the mean of equal weights is those weights. Raises CheckpointError where one is damaged.
    """
    states = (checkpoint.load_module_state(part) for checkpoint in checkpoints)
    mean = next(states)
    kinds = {name: tensor.dtype for name, tensor in mean.items()}
    mean = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in mean.items()}
    for state in states:
        for name, tensor in state.items():
            mean[name] = mean[name] + tensor if tensor.is_floating_point() else tensor
    return {
        name: (tensor / len(checkpoints)).to(kinds[name]) if tensor.is_floating_point() else tensor
        for name, tensor in mean.items()
    }


def latest_checkpoints(checkpoint: Checkpoint, count: int) -> list[Checkpoint]:
    """This checkpoint and the ones of its run right before it, `count` in all, the oldest first.

    Raises CheckpointError where the run has kept fewer.
    """
    store = CheckpointStore(checkpoint.folder.parent)
    found = [checkpoint]
    while len(found) < count and found[0].previous in store.updates():
        found.insert(0, store.at(found[0].previous))
    if len(found) < count:
        newest = store.newest()
        is_last = newest is None or newest.folder == checkpoint.folder
        mend = f"train with save.keep_last={count}" if is_last else "add --checkpoint last"
        raise CheckpointError(
            f"average: {count} checkpoints in a row are wanted up to update {checkpoint.update}, but "
            f"{checkpoint.folder.parent} has {len(found)}; {mend}, or average fewer"
        )
    return found
