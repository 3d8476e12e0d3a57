"""What runs in each Ray Train worker: find the place, the rank and the checkpoint, then `run` as everywhere."""

import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import ray.train
import ray.train.torch

from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.context import Context
from footplate.errors import FootplateError, TrainingError, described
from footplate.execution import run
from footplate.faults import LostWorkerError, SilentWorkerError, losses_named
from footplate.folder import RunFolder, is_url
from footplate.job import job_from_yaml
from footplate.launch import newest_checkpoint
from footplate.tracking.log_file import LogFile
from footplate.tracking.tracker import Guard
from footplate_cluster.marker import problem_with
from footplate_cluster.places import seen_here
from footplate_cluster.roll import Roll

SECONDS_TO_TELL = 4.0
"""Ray looks at its workers every two seconds: whoever only lost another one lets the cause be seen first."""


def train_worker(config: dict[str, Any]) -> None:
    """Run a job (`config["job"]`, YAML) in its folder (`config["folder"]`) as one rank of a data-parallel group.

    `config["start"]` names this start of the workers: it is the key of their roll, and what the folder's marker says.
    `config["told"]` is for the log: what the driver could not write there.
    """
    job = job_from_yaml(config["job"])
    sys.argv[1:] = ["resume", config["folder"]]  # W&B uploads it; Ray's has the addresses and the id of the cluster
    worker = ray.train.get_context()
    rank, ranks = worker.get_world_rank(), worker.get_world_size()
    roll = Roll(config["start"])
    roll.sign(rank)
    with losses_named(), seen_here(config["folder"], rank, ranks) as folder:
        context = Context(
            seed=job.seed,
            device=ray.train.torch.get_device(),
            precision=job.precision,
            rank=rank,
            ranks=ranks,
            folder=folder.path,
        )
        # Nobody sees what a worker prints; the driver's terminal follows the log.
        log = Guard("log.txt", LogFile(folder.log), print)
        for line in config["told"] if rank == 0 else ():
            log.message(line)
        with _failures_told(roll, context, log), losses_named():
            if not is_url(config["folder"]):
                _refuse_another_folder(context, folder, config["start"])
            with _chosen_checkpoint(folder, context, log) as checkpoint:
                for _ in run(job, replace(context, checkpoint=checkpoint, holds_lock=context.rank == 0)):
                    pass


@contextmanager
def _failures_told(roll: Roll, context: Context, log: Guard) -> Iterator[None]:
    """Raise nothing but FootplateErrors, which travel well, and say which worker failed where there are several."""
    where = f"worker {context.rank} on {socket.gethostname()}: " if context.ranks > 1 else ""
    try:
        yield
    except LostWorkerError as error:
        if isinstance(error, SilentWorkerError):
            roll.wait_in_vain(context.rank)
        time.sleep(SECONDS_TO_TELL)
        raise
    except TrainingError as error:
        raise TrainingError(f"{where}{error}") from error
    except FootplateError:
        raise
    except Exception as error:
        if context.rank > 0:  # rank 0's own record has done so
            log.message(traceback.format_exc().rstrip())
        assert context.folder is not None
        raise TrainingError(
            f"{where}{described(error)}; mend it, then `footplate resume {RunFolder(context.folder).argument}` goes on"
        ) from error


def _refuse_another_folder(context: Context, folder: RunFolder, token: str) -> None:
    """Raise FootplateError on all ranks where one of them does not see the driver's folder."""
    problems = [problem for problem in context.gather(problem_with(folder.path, token)) if problem is not None]
    if problems:
        raise FootplateError(problems[0])


@contextmanager
def _chosen_checkpoint(folder: RunFolder, context: Context, log: Guard) -> Iterator[Checkpoint | None]:
    """Rank 0 looks, and all take the one that it found: nobody resumes from another update than the others."""
    with folder.lock() if context.rank == 0 else nullcontext():
        found = newest_checkpoint(folder, log.message) if context.rank == 0 else None
        update = context.broadcast(None if found is None else found.update)
        yield None if update is None else CheckpointStore(folder.checkpoints).at(update)
