"""From a sweep's file to the jobs of its trials: all of them are built, and all problems told, before any starts."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from footplate.config import COMMAND_LINE, resolve_section
from footplate.document import Document, Origin, read_document
from footplate.errors import ConfigError, FootplateError
from footplate.folder import is_seen
from footplate.job import Job, Resources, load_job
from footplate.recipes import find_sweep
from footplate.sweeps.sweep import Sweep, Trial, trials_of
from footplate.tasks import actors_of, load_task
from footplate.tracking import require_trackers

_NUMBER = re.compile(r"-?[0-9.]+(e[-+]?[0-9]+)?")


@dataclass(frozen=True)
class Plan:
    """A sweep, its trials, and the job of each; `name` is the file's, for a sweep that is given no other."""

    name: str
    sweep: Sweep
    trials: list[Trial]
    jobs: list[Job]


def load_sweep(name: str, overrides: Sequence[str] = ()) -> Plan:
    """The sweep in a YAML file, or the shipped one of this name, with keys of that file overridden.

    Raises ConfigError with everything that is wrong with the sweep, or else with its trials.
    """
    path = find_sweep(name)
    document = read_document(path)
    if "task" in document.data and "recipe" not in document.data:
        raise ConfigError(
            [f"{document.source}: is a recipe; a sweep names one (recipe: {path.stem}) and the space to search in"]
        )
    for override in overrides:
        if re.match(r"\s*space\b", override):
            key = override.partition("=")[0].strip()
            raise ConfigError([f"{COMMAND_LINE}: {key}: the space is not changed from here; edit {document.source}"])
    sweep = resolve_section(Sweep, document, overrides)
    sweep = sweep.model_copy(update={"recipe": _recipe(sweep.recipe, path.parent)})
    trials = trials_of(sweep)
    jobs = _Jobs(sweep, document).build(trials)
    _check_as_a_whole(sweep, jobs, document)
    return Plan(path.stem, sweep, trials, jobs)


def _recipe(name: str, folder: Path) -> str:
    """A path from where the sweep's file lies, where there is such a file; else as it is."""
    beside = folder / name
    return str(beside.absolute()) if name.endswith((".yaml", ".yml")) and is_seen(beside) else name


@dataclass
class _Jobs:
    """Builds the jobs of the trials, collecting what is wrong once for each key."""

    sweep: Sweep
    document: Document
    problems: dict[str, str] = field(default_factory=dict)

    def build(self, trials: Sequence[Trial]) -> list[Job]:
        fixed = [f"{key}={json.dumps(value)}" for key, value in self.sweep.fixed]
        if self.sweep.best is not None:
            fixed += [f"best.{key}={json.dumps(value)}" for key, value in self.sweep.best.model_dump().items()]
        jobs = []
        for trial in trials:
            own = [f"{key}={json.dumps(value)}" for key, value in trial.settings.items()]
            try:
                jobs.append(load_job(self.sweep.recipe, [*fixed, *own]))
            except ConfigError as error:
                for problem in error.problems:
                    self._complain(problem, trial)
        if self.problems:
            raise ConfigError(list(self.problems.values()))
        return jobs

    def _complain(self, problem: str, trial: Trial) -> None:
        """A problem of what the sweep itself set is told at the line of the sweep's file."""
        where, _, rest = problem.partition(": ")
        if where != COMMAND_LINE:
            self.problems.setdefault(problem, problem)
            return
        said, _, _ = rest.partition(": ")
        if self.sweep.best is not None and said.startswith("best"):
            self.problems.setdefault(rest, f"{self.document.where(tuple(said.split('.')))}: {rest}")
            return
        for above, keys in (("space", self.sweep.space), ("overrides", dict(self.sweep.fixed))):
            for key in keys:
                if f"{said}.".startswith(f"{key}.") or f"{key}.".startswith(f"{said}."):
                    told = f" (trial {trial.number})" if above == "space" and "unknown key" not in rest else ""
                    # One line for all the numbers that a key was refused with.
                    self.problems.setdefault(
                        f"{above}.{key}: {_NUMBER.sub('0', rest)}",
                        f"{self._origin(above, key)}: {above}: {rest}{told}",
                    )
                    return
        self.problems.setdefault(rest, f"{self.document.source}: {rest}")

    def _origin(self, above: str, key: str) -> Origin:
        whole = (above, key)
        return self.document.where(whole if whole in self.document.origins else (above, *key.split(".")))


def _check_as_a_whole(sweep: Sweep, jobs: Sequence[Job], document: Document) -> None:
    """What is wrong with trials that are each good jobs. Raises ConfigError, FootplateError."""
    job = jobs[0]
    if job.on != "here" or job.address is not None or job.resources != Resources():
        raise FootplateError(
            f"{document.source}: on, address, resources: in {sweep.recipe} they say where a run of its own goes, and a "
            "trial is one worker of the sweep; leave them out there, and set the sweep's own resources and address"
        )
    _check_actors(sweep, jobs, document)
    require_trackers(job)
    if job.best is None:
        raise FootplateError(
            f"{document.source}: best: {sweep.recipe} names no metric to rank trials by; "
            "add best: {metric: NAME} to the sweep, such as eval/loss"
        )
    if sweep.scheduler is not None and sweep.scheduler.grace_updates >= (shortest := min(job.updates for job in jobs)):
        raise FootplateError(
            f"{document.where(('scheduler', 'grace_updates'))}: scheduler.grace_updates: "
            f"{sweep.scheduler.grace_updates} is not below the {shortest} updates of a trial, so none would be "
            "stopped; lower it"
        )


def _check_actors(sweep: Sweep, jobs: Sequence[Job], document: Document) -> None:
    """Refuse trials that start more processes than they reserve cores for."""
    actors = max(actors_of(load_task(job.task), job) for job in jobs)
    cpus = sweep.resources.cpus
    if actors and cpus < actors + 1:
        raise FootplateError(
            f"{document.where(('resources', 'cpus'))}: resources.cpus: {cpus:g} is too few for a trial of "
            f"{sweep.recipe}, which is {actors + 1} processes, {actors} of them actors; use {actors + 1}, or keep them "
            "in one process (overrides: {processes: false})"
        )
