"""The sweep's folder: its file, a run folder for each trial, and what they come to.

runs/<sweep>/sweep.yaml  <trial>/job.yaml ...  sweep.json  sweep.csv  sweep.png
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from footplate.config import resolve_section
from footplate.document import read_document, write_yaml
from footplate.errors import FootplateError
from footplate.folder import SWEEP_FILE, RunFolder, is_seen
from footplate.job import Best, Job, read_job
from footplate.sweeps.sweep import Sweep, Trial, trials_of

HALVED = "ASHA: "
"""How the reason begins for which a trial was stopped for good."""


@dataclass(frozen=True)
class Standing:
    """How a trial stands: what its run folder says."""

    trial: Trial
    folder: RunFolder
    state: str
    """waiting, running, killed, stopped (to go on), halved (stopped for good by ASHA), failed or finished."""
    update: int
    seconds: float
    score: float | None
    """The best so far; None where it was not evaluated, or never to a finite number."""
    problem: str = ""
    """Why it failed."""

    @property
    def is_over(self) -> bool:
        """Whether a sweep that goes on leaves this trial as it is."""
        return self.state in ("finished", "halved")


class SweepFolder:
    """A sweep on disk; what became of its trials is read from their run folders each time."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.sweep = resolve_section(Sweep, read_document(self.path / SWEEP_FILE), ())
        self.trials = trials_of(self.sweep)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def argument(self) -> str:
        """What to call the sweep on the command line, from the working directory."""
        return RunFolder(self.path).argument

    @property
    def stop(self) -> Path:
        """A file whose presence asks all trials to save and end; its text is the reason."""
        return self.path / "stop"

    @property
    def picture(self) -> Path:
        return self.path / "sweep.png"

    def folder(self, trial: Trial) -> RunFolder:
        """The run folder of a trial."""
        return RunFolder(self.path / trial.name)

    def job(self) -> Job:
        """The job of the first trial: in all that is the same for all trials, that of every other."""
        return read_job(self.folder(self.trials[0]).job)

    @property
    def best(self) -> Best:
        """What scores a trial."""
        job = self.folder(self.trials[0]).job
        best = read_document(job).data.get("best")  # not the whole job: that would import the task
        if not isinstance(best, dict):
            raise FootplateError(f"{job}: has no `best`, so that the trials can't be ranked; sweep again")
        try:
            return Best.model_validate(best)
        except ValidationError as error:
            raise FootplateError(
                f"{job}: its `best` is damaged, so that the trials can't be ranked; mend it"
            ) from error

    def standing(self, trial: Trial) -> Standing:
        """How a trial stands."""
        folder = self.folder(trial)
        status = folder.read_status()
        state, reason = str(status["state"]), str(status.get("reason", ""))
        if state == "unknown":
            state = "waiting"
        elif state == "stopped" and reason.startswith(HALVED):
            state = "halved"
        score = (status.get("best") or {}).get("value")
        return Standing(
            trial,
            folder,
            state,
            int(status["update"]),
            float(status.get("seconds", 0.0)),
            score if score is not None and math.isfinite(score) else None,
            str(status.get("error", "")),
        )

    def give_up(self, trial: Trial) -> None:
        """Mark a trial as failed whose processes died again and again."""
        self.folder(trial).write_failure("its worker process died again and again, such as for want of memory")

    def standings(self) -> list[Standing]:
        """How each trial stands, in order of their numbers."""
        return [self.standing(trial) for trial in self.trials]

    def ranked(self) -> list[Standing]:
        """The trials from best to worst; those without a score last."""
        sign = 1.0 if self.best.better == "lower" else -1.0
        return sorted(
            self.standings(),
            key=lambda standing: (standing.score is None, sign * (standing.score or 0.0), standing.trial.number),
        )


def is_sweep(path: Path) -> bool:
    """Whether a sweep's folder is there."""
    return is_seen(path / SWEEP_FILE)


def find_sweep_folder(name: str | Path, runs: str | Path) -> SweepFolder | None:
    """The sweep of this name under `runs`, or at this path; None where there is none. At a URL there never is."""
    return next((SweepFolder(path) for path in (Path(runs) / name, Path(name)) if is_sweep(path)), None)


def write_sweep(path: Path, sweep: Sweep, trials: Sequence[Trial], jobs: Sequence[Job]) -> SweepFolder:
    """Fill an empty folder: a run folder with its job for each trial, and last of all the file that makes it a sweep.

    Trials that report to W&B are one group there, named after the sweep unless the recipe names it.
    """
    for trial, job in zip(trials, jobs, strict=True):
        folder = RunFolder(path / trial.name)
        folder.path.mkdir()
        folder.write_job(_settled(job, sweep, path.name).to_yaml())
        folder.write_status({"state": "waiting", "update": 0, "updates": job.updates})
    (path / SWEEP_FILE).write_text(write_yaml(sweep.model_dump(mode="json")), encoding="utf-8")
    return SweepFolder(path)


def _settled(job: Job, sweep: Sweep, name: str) -> Job:
    changes: dict[str, Any] = {}
    if job.threads is None:
        changes["threads"] = max(1, int(sweep.resources.cpus))
    if job.track.wandb is not None and job.track.wandb.group is None:
        wandb = job.track.wandb.model_copy(update={"group": name})
        changes["track"] = job.track.model_copy(update={"wandb": wandb})
    return job.model_copy(update=changes)
