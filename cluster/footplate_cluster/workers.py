"""What runs in each Ray Train worker: find the place, the rank and the checkpoint, then `run` as everywhere."""

import socket
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.context import Context
from footplate.errors import FootplateError
from footplate.execution import run
from footplate.folder import RunFolder
from footplate.job import job_from_yaml
from footplate.launch import newest_checkpoint
from footplate.tracking.log_file import LogFile
from footplate.tracking.tracker import Guard


def train_worker(config: dict[str, Any]) -> None:
    """Run a job (`config["job"]`, YAML) in its folder (`config["folder"]`) as one rank of a data-parallel group."""
    job = job_from_yaml(config["job"])
    folder = visible_folder(config["folder"])
    worker = ray.train.get_context()
    rank, ranks = worker.get_world_rank(), worker.get_world_size()
    context = Context(
        seed=job.seed,
        device=ray.train.torch.get_device(),
        precision=job.precision,
        rank=rank,
        ranks=ranks,
        folder=folder.path,
        checkpoint=agreed_checkpoint(folder, rank, ranks),
    )
    for _ in run(job, context):
        pass


def visible_folder(path: str) -> RunFolder:
    """The run folder at this path. Raises FootplateError where this machine does not see it."""
    folder = RunFolder(Path(path))
    if not folder.job.is_file():
        raise FootplateError(
            f"{folder.path}: a worker on {socket.gethostname()} cannot see the run folder; use --runs on a shared disk"
        )
    return folder


def agreed_checkpoint(folder: RunFolder, rank: int, ranks: int) -> Checkpoint | None:
    """Rank 0 looks, and all take the one that it found: nobody resumes from another update than the others."""
    # Nobody sees what a worker prints; the driver's terminal follows the log.
    log = Guard("log.txt", LogFile(folder.log), print)
    found = newest_checkpoint(folder, log.message) if rank == 0 else None
    update = torch.tensor([-1 if found is None else found.update])
    if ranks > 1:
        torch.distributed.broadcast(update, src=0)
    return None if int(update) < 0 else CheckpointStore(folder.checkpoints).at(int(update))
