"""A task for tests: fit a line, wait where the test wants to do something, and fail on one rank as it is told."""

import time
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from footplate.context import Context
from footplate.optimizers import Adam
from footplate.schedules import Constant
from footplate.section import Section
from footplate.step import Step
from footplate.update import LossTerms, Update, UpdateConfig


class Config(Section):
    updates: int = 40
    """How many updates."""
    hold_before: tuple[int, ...] = ()
    """Updates that wait for a file `go-UPDATE` in the run folder."""
    meets: Literal["nothing", "silence", "lack of memory", "a mistake"] = "nothing"
    """What the last rank meets before update 15."""


class LineLoss(nn.Module):
    def __init__(self, line: nn.Module) -> None:
        super().__init__()
        self.line = line

    def forward(self, points: torch.Tensor) -> LossTerms:
        return LossTerms((self.line(points) - (3 * points + 1)).square().sum(), len(points), {})


def train(config: Config, context: Context) -> Iterator[Step]:
    context.seed_torch("initialise")
    line = context.place(nn.Linear(1, 1))
    update = Update(LineLoss(line), Adam(learning_rate=0.05), Constant(), UpdateConfig(), context, config.updates)
    context.restore(line=line, update=update)
    while update.number < config.updates:
        wait_for_permission(config, context, update.number + 1)
        if update.number + 1 == 15 and context.rank == context.ranks - 1:
            meet(config)
        points = torch.as_tensor(context.stream("points", update.number).random((8, 1)), dtype=line.weight.dtype)
        metrics = update([points[context.rank :: context.ranks]])
        yield Step(update.number, metrics, {"points": 8}, {"line": line, "update": update})


def wait_for_permission(config: Config, context: Context, number: int) -> None:
    assert context.folder is not None
    while number in config.hold_before and not (context.folder / f"go-{number}").exists():
        time.sleep(0.02)


def meet(config: Config) -> None:
    if config.meets == "silence":
        time.sleep(1000)
    elif config.meets == "lack of memory":
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes")
    elif config.meets == "a mistake":
        raise ValueError("the line broke")
