"""`Context`: all about the machine, nothing about the task."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from footplate.checkpoint import Checkpoint
from footplate.job import Precision
from footplate.pool import OpenPool, open_pool
from footplate.shared_parameters import SharedParameters, ShareParameters
from footplate.step import Part
from footplate.streams import numpy_stream, torch_seed, torch_stream

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Context:
    """Where and how a task runs: one of these for each rank, equal but for `rank`.

    The defaults are one process on the CPU, nothing to restore and nowhere to write: what a test or a notebook needs.
    """

    seed: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "fp32"
    """`bf16` and `fp16` are autocast over fp32 weights; `fp64` converts the weights (for exact comparisons)."""
    rank: int = 0
    ranks: int = 1
    folder: Path | None = None
    """The run folder, or None for a run that leaves nothing behind."""
    checkpoint: Checkpoint | None = None
    """What `restore` reads, or None for a fresh start."""
    holds_lock: bool = False
    """Whether whoever made this holds the lock of the run folder: it chose the checkpoint while nobody else trains."""
    stop_requested: Callable[[], str | None] = lambda: None
    """The reason why this rank was asked to stop, such as a signal; None to go on."""
    pool: OpenPool = open_pool
    """Opens a pool of stateful workers: `context.pool(make, arguments, processes=True)`."""
    share: ShareParameters = SharedParameters
    """Puts the parameters of a module where all workers of a pool reach them: `context.share(module, optimizer)`."""

    def place(self, module: Module) -> Module:
        """The module on this rank's device, in float64 where that is the precision."""
        return module.to(self.device, torch.float64 if self.precision == "fp64" else None)

    def autocast(self) -> AbstractContextManager[Any]:
        """The region in which a forward pass runs in the chosen precision."""
        if self.precision not in ("bf16", "fp16"):
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    def restore(self, **parts: Part) -> int:
        """Load each part from the checkpoint, if there is one; returns how many updates it had made, else 0."""
        if self.checkpoint is None:
            return 0
        self.checkpoint.restore(parts)
        return self.checkpoint.update

    def stream(self, name: str, *counters: int) -> np.random.Generator:
        """The NumPy stream of this name and these counters; every rank gets the same, unless its rank is a counter."""
        return numpy_stream(self.seed, name, *counters)

    def torch_stream(self, name: str, *counters: int) -> torch.Generator:
        """The torch stream of this name and these counters, on the CPU."""
        return torch_stream(self.seed, name, *counters)

    def seed_torch(self, name: str, *counters: int) -> None:
        """Seed torch's global generators (dropout, initialisers) from a named stream."""
        seed = torch_seed(self.seed, name, *counters)
        # Not torch.manual_seed: for each accelerator that is not in use it formats a stack trace, 0.4 ms an update.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all ranks, in place; every rank must call it."""
        if self.ranks > 1:
            torch.distributed.all_reduce(value)
        return value

    def gather(self, value: Any) -> list[Any]:
        """The value of each rank, in order of rank; every rank must call it. Values travel pickled."""
        if self.ranks == 1:
            return [value]
        values: list[Any] = [None] * self.ranks
        torch.distributed.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.ranks == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]
