"""`Job`: everything that a run is, as plain data. It prints, pickles, and is written to the run folder as `job.yaml`.

A recipe and a `job.yaml` have the same layout: one flat mapping with the keys of `Job` and the keys of the task's
own `Config` side by side.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from footplate.section import Count, NonNegative, Positive, Seconds, Section, Threads, WholeNumber

Precision = Literal["fp32", "tf32", "bf16", "fp16", "fp64"]


class Resources(Section):
    """What each worker of a cluster run asks for; a run in this process is always one worker."""

    workers: int | str = 1
    """How many processes share each update; the result is the same for any number, up to rounding. `1:4` takes as
    many between these as the cluster has room for, and another number whenever machines come or go."""
    cpus_per_worker: Count = 1
    """CPU cores that the cluster reserves for each worker."""
    gpus_per_worker: Annotated[int, Field(ge=0)] = 0
    """GPUs that the cluster reserves for each worker."""
    cpus_per_actor: Positive | None = None
    """CPU cores that the cluster reserves for each actor of a task that has them; null: 1, or on a cluster that is
    started on this machine an equal part of what the task itself leaves over, if that is less."""
    wait: bool = False
    """Wait for a cluster that is too small to grow; otherwise it is refused at once."""

    @field_validator("workers")
    @classmethod
    def _is_a_number_or_two(cls, workers: int | str) -> int | str:
        numbers = [part.strip() for part in str(workers).split(":")]
        if len(numbers) > 2 or not all(number.isascii() and number.isdecimal() for number in numbers):
            raise ValueError(f"{workers!r} is no number of workers; give one, or the fewest and the most such as 1:4")
        if not 1 <= int(numbers[0]) <= int(numbers[-1]):
            raise ValueError(f"{workers} is no number of workers; the fewest must be at least 1, the most no fewer")
        return workers

    @property
    def fewest_workers(self) -> int:
        """With how many workers the run makes do."""
        return int(str(self.workers).split(":")[0])

    @property
    def most_workers(self) -> int:
        """How many workers the run takes where it can have them."""
        return int(str(self.workers).split(":")[-1])


class Faults(Section):
    """What a run on a cluster does when workers or machines are lost."""

    restarts: WholeNumber = 3
    """How often in a row the run goes on by itself from its newest checkpoint; each new checkpoint counts anew."""
    timeout_seconds: Seconds = 1800.0
    """How long workers wait for one that does not answer before it counts as lost; longer than an evaluation takes."""
    wait_seconds: NonNegative = 600.0
    """How long a run that lost machines waits until the cluster has room for its workers again."""


_BETTER_WHEN_LOWER = {"loss", "perplexity", "ter"}


class Best(Section):
    """Which metric tells the best checkpoint, and is watched by early stopping."""

    metric: str
    """The name of a metric that an evaluation reports, such as `eval/bleu`."""
    better: Literal["higher", "lower"] = "higher"
    """Which direction is an improvement."""

    @model_validator(mode="after")
    def _is_of_an_evaluation(self) -> Self:
        if not self.metric.startswith("eval/"):
            raise ValueError(
                f"metric: {self.metric} is of no evaluation; name one that begins with eval/, such as eval/loss"
            )
        if self.better == "higher" and self.metric.rpartition("/")[2] in _BETTER_WHEN_LOWER:
            raise ValueError(f"better: {self.metric} is the better the lower it is; set it to lower")
        return self


class Stop(Section):
    """When to end before the task's number of updates; whatever is reached first."""

    patience_evaluations: Count | None = None
    """End after so many evaluations in a row without an improvement of the best metric."""
    minimum_improvement: NonNegative = 0.0
    """By how much the best metric must change to count as an improvement."""
    target: float | None = None
    """End when the best metric is at least this good."""
    hours: Positive | None = None
    """End after so many hours of wall-clock time, counted over all resumptions."""


class Save(Section):
    """When checkpoints are written, and which are kept."""

    every_updates: Count | None = None
    """How many updates lie between two checkpoints; null saves whenever there was an evaluation, and at the end."""
    keep_last: Count = 2
    """How many of the newest checkpoints stay on disk."""
    keep_best: Count = 1
    """How many of the best checkpoints by the best metric stay on disk."""

    def due(self, update: int, *, evaluated: bool) -> bool:
        """Whether to save after this update."""
        return evaluated if self.every_updates is None else update % self.every_updates == 0


class Wandb(Section):
    """A run on Weights & Biases; without a key or a server it is kept offline, to be uploaded later."""

    project: str = "footplate"
    """The project that the run appears in."""
    entity: str | None = None
    """The user or team that owns the project; null is the account's default."""
    group: str | None = None
    """Runs of one group are shown together, such as the seeds of one experiment."""
    tags: tuple[str, ...] = ()
    """Labels to find the run by."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes to the run folder only."""


class Track(Section):
    """Where the run reports to, besides the console and `metrics.jsonl`, which are always there."""

    every_updates: Count = 1
    """How many updates are averaged into one row of metrics."""
    tensorboard: bool = False
    """Also write TensorBoard's event files into the run folder."""
    wandb: Wandb | None = None
    """Also report to Weights & Biases; `{}` does so with its defaults."""


class Job(Section):
    """A run: which task, with which configuration, on which machine, and what becomes of its results."""

    task: str
    """The name of an installed task, a dotted module, or a path to a `.py` file."""
    about: str = ""
    """One line that says what this is; shown by `footplate recipes`."""
    seed: int = 1
    """Every random number of the run follows from it."""
    on: Literal["here", "ray"] = "here"
    """`here` runs in this process, `ray` on a Ray cluster."""
    address: str | None = None
    """The Ray cluster: `auto` or `host:6379`; null, and `local`, start one on this machine."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What computes; `auto` takes a GPU where there is one."""
    precision: Precision = "fp32"
    """`bf16` and `fp16` are autocast over fp32 weights, `tf32` is fp32 with CUDA's fast products (elsewhere fp32, which
    is said), `fp64` compares exactly."""
    threads: Threads | None = None
    """CPU threads of torch in each worker; null shares this machine's cores among the workers, or on a
    cluster elsewhere takes as many as `resources.cpus_per_worker`."""
    deterministic: bool = False
    """Use only algorithms that give the same bits each time; slower on a GPU."""
    debug: bool = False
    """Detect anomalies in the backward pass; `--debug` sets it, and shrinks the job to a few updates."""
    resources: Resources = Resources()
    """What each worker of a cluster run asks for."""
    faults: Faults = Faults()
    """What a cluster run does when workers or machines are lost."""
    best: Best | None = None
    """Which metric tells the best checkpoint; null if there is no such thing."""
    stop: Stop = Stop()
    """When to end early."""
    save: Save = Save()
    """When checkpoints are written, and which are kept."""
    track: Track = Track()
    """Where the run reports to."""
    config: SerializeAsAny[Section]
    """The task's own configuration; in a recipe its keys stand beside those above."""

    @model_validator(mode="after")
    def _watches_a_metric(self) -> "Job":
        if self.best is None and (self.stop.patience_evaluations is not None or self.stop.target is not None):
            raise ValueError(
                "stop: patience_evaluations and target watch the best metric, and none is named; "
                "add best: {metric: NAME}, and better: lower for one such as eval/loss"
            )
        if self.best is None and self.save.keep_best != Save().keep_best:
            raise ValueError(
                f"save.keep_best: {self.save.keep_best} needs a metric to tell the best by; "
                "add best: {metric: NAME}, and better: lower for one such as eval/loss"
            )
        if self.stop.minimum_improvement and self.stop.patience_evaluations is None:
            raise ValueError(
                f"stop.minimum_improvement: {self.stop.minimum_improvement:g} is what patience_evaluations counts by, "
                "and there is none; set it too, or leave this out"
            )
        return self

    @property
    def updates(self) -> int:
        """How many updates the whole run makes."""
        return int(self.config.updates)  # type: ignore[attr-defined]  # load_task checks that a task's Config has it

    def settled(self) -> "Job":
        """The job with what this machine decides written out, so that a run that moves keeps its thread count."""
        if self.threads is not None:
            return self
        elsewhere = self.on != "here" and self.address not in (None, "local")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = self.resources.cpus_per_worker if elsewhere else max(1, cores // self.resources.most_workers)
        return self.model_copy(update={"threads": threads})

    def to_yaml(self) -> str:
        """The job as the text of a `job.yaml`: flat, every default written out; `read_job` gives an equal job."""
        from footplate.document import write_yaml

        fields = self.model_dump(mode="json")
        return write_yaml(fields | fields.pop("config"))

    def __reduce__(self) -> tuple[Callable[[str], "Job"], tuple[str]]:
        """Pickles as YAML, so that a task given by a path is found again in a process that hasn't imported it."""
        return job_from_yaml, (self.to_yaml(),)


def load_job(recipe: str | Path, overrides: Sequence[str] = (), *, debug: bool = False) -> Job:
    """The job of a recipe: the name of a shipped one, or the path of a YAML file.

    `overrides` are `key.sub=value`; the value is read as YAML, just as if it stood behind `key:` in the recipe: an
    empty one is null, `{}` a section with its defaults. A number addresses an entry of a list (`betas.1=0.98`). The
    last of two overrides of one key wins; otherwise their order doesn't matter. When the `kind` of a section is
    overridden, what the recipe says about the former kind is dropped unless the new kind has that key too.

    `debug` shrinks the job by the task's DEBUG_OVERRIDES, turns on `debug` and `deterministic`; `overrides` still win.

    Raises ConfigError with everything that is wrong, one line each.
    """
    from footplate.config import resolve
    from footplate.document import read_document
    from footplate.recipes import find_recipe

    return resolve(read_document(find_recipe(recipe)), overrides, debug=debug)


def read_job(path: str | Path) -> Job:
    """The job that was written to a `job.yaml`. Raises ConfigError."""
    return load_job(Path(path))


def job_from_yaml(text: str) -> Job:
    """The job that `to_yaml` wrote, wherever the text has travelled. Raises ConfigError."""
    from footplate.config import resolve
    from footplate.document import parse_document

    return resolve(parse_document(text, source="job"), ())


__all__ = [
    "Best",
    "Faults",
    "Job",
    "Precision",
    "Resources",
    "Save",
    "Stop",
    "Track",
    "Wandb",
    "job_from_yaml",
    "load_job",
    "read_job",
]
