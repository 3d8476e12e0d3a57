"""`run`: the only way to execute anything. Launchers differ in where they call it, never in what they call."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from footplate.checkpoint import Checkpoint
from footplate.context import Context
from footplate.drive import drive
from footplate.errors import FootplateError
from footplate.faults import lack_of_memory_named
from footplate.job import Job
from footplate.step import Step
from footplate.tasks import load_task


def run(job: Job, context: Context | None = None) -> Iterator[Step]:
    """Execute a job, yielding its steps, each already logged and saved where that was due.

    Without a context it runs in this process, from the start, and leaves nothing behind:

        for step in run(load_job("copy-transformer")):
            if step.activity is None:
                print(step.update, metric_value(step.metrics["train/loss"]))
    """
    context = context if context is not None else local_context(job)
    task = load_task(job.task)
    with process_settings(job):
        yield from drive(task.train(job.config, context), job, context)


def local_context(
    job: Job,
    folder: Path | None = None,
    checkpoint: Checkpoint | None = None,
    stop_requested: Callable[[], str | None] = lambda: None,
) -> Context:
    """The context of a job that has this process to itself."""
    return Context(
        seed=job.seed,
        device=resolve_device(job.device),
        precision=job.precision,
        folder=folder,
        checkpoint=checkpoint,
        stop_requested=stop_requested,
    )


def resolve_device(name: str) -> torch.device:
    """The device that a job names; `auto` is a GPU where there is one. Raises FootplateError where it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[name]
    if not there:
        raise FootplateError(
            f"device: {name}: torch finds no such device here; use device=cpu, or a torch build that has it"
        )
    return torch.device(name)


@contextmanager
def process_settings(job: Job) -> Iterator[None]:
    """torch's process-wide switches as the job wants them, put back afterwards (a notebook lives on).

    Raises TrainingError where what runs in between needs more memory than there is.
    """
    threads = torch.get_num_threads()
    determinism = torch.get_deterministic_debug_mode()
    anomaly = torch.is_anomaly_enabled()
    matmul_precision = torch.get_float32_matmul_precision()
    if job.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to be deterministic
    torch.set_num_threads(job.threads or threads)
    # Not torch.use_deterministic_algorithms: it imports torch's compiler, a second at every start.
    torch.set_deterministic_debug_mode("error" if job.deterministic else "default")
    torch.set_float32_matmul_precision("high" if job.precision == "tf32" else "highest")
    torch.autograd.set_detect_anomaly(job.debug)
    try:
        with lack_of_memory_named():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(determinism)
        torch.set_float32_matmul_precision(matmul_precision)
        torch.autograd.set_detect_anomaly(anomaly)
