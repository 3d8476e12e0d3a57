"""Tracking: what a run tells the world. metrics.jsonl is the truth; everybody else may be slow, absent or broken."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from footplate.errors import FootplateError
from footplate.tracking.tracker import Guard, Tracker, Trackers

if TYPE_CHECKING:
    from footplate.folder import RunFolder
    from footplate.job import Job

__all__ = ["Tracker", "open_trackers", "require_trackers"]


def open_trackers(job: "Job", folder: "RunFolder", *, total_updates: int, resumed_from: int = 0) -> Tracker:
    """Every tracker that the job asks for, as one; what was recorded after update `resumed_from` is cut off.

    A run on a cluster has no console here: whoever launched it follows the run folder (`footplate.tracking.follow`).

    Raises FootplateError where a package that a tracker needs is not installed.
    """
    from footplate.tracking.console import Console
    from footplate.tracking.feed import Feed
    from footplate.tracking.log_file import LogFile, SampleFiles
    from footplate.tracking.metrics_file import MetricsFile

    require_trackers(job)
    metrics = MetricsFile(folder.metrics)
    metrics.truncate_after(resumed_from)
    trackers = Trackers(metrics)
    say = trackers.message
    trackers.add(Guard("log.txt", LogFile(folder.log), say))
    if job.on == "here":
        watched = () if job.best is None else (job.best.metric,)
        trackers.add(Guard("console", Console(total_updates, folder.name, first=watched), say))
    trackers.add(Guard("samples", SampleFiles(folder.samples), say))
    if job.track.tensorboard:
        trackers.add(Feed("track.tensorboard", lambda: _tensorboard(folder, resumed_from), say))
    if job.track.wandb is not None:
        trackers.add(Feed("track.wandb", lambda: _wandb(job, folder, say), say))
    return trackers


def require_trackers(job: "Job") -> None:
    """Raise FootplateError where a package that a tracker of the job needs is not installed."""
    if job.track.tensorboard:
        _require("tensorboard")
    if job.track.wandb is not None:
        _require("wandb")


def _require(package: str) -> None:
    spec = find_spec(package)
    # A folder of this name in the working directory, such as W&B makes, is a package without an origin.
    if spec is None or spec.origin is None:
        raise FootplateError(f"track.{package}: {package} is not installed; pip install 'footplate[{package}]'")


def _tensorboard(folder: "RunFolder", resumed_from: int) -> Tracker:
    from footplate.tracking.tensorboard import TensorBoardTracker

    return TensorBoardTracker(folder.path / "tensorboard", resumed_from)


def _wandb(job: "Job", folder: "RunFolder", say: Any) -> Tracker:
    from footplate.tracking.wandb_tracker import WandbTracker

    assert job.track.wandb is not None
    recipe = job.model_dump(mode="json")
    return WandbTracker(job.track.wandb, folder, recipe | recipe.pop("config"), say)
