"""Workers that die: they are replaced so many times, and one more death ends the run."""

from footplate.errors import TrainingError
from footplate.pool import Replacements, WorkerDiedError


def replace(replacements: Replacements, worker: int, death: WorkerDiedError) -> None:
    """Make the worker anew. Raises TrainingError where there have been enough.

    No WorkerDiedError: that is a loss, behind which a cluster goes on from the newest checkpoint.
    """
    try:
        replacements.replace(worker, death)
    except WorkerDiedError as last:
        raise TrainingError(str(last)) from last
