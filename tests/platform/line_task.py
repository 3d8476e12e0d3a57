"""A task for tests: fit a line, one tiny batch at a time."""

from collections.abc import Iterator

import torch
from torch import nn

from footplate.context import Context
from footplate.optimizers import Adam, Optimizer
from footplate.schedules import Constant, Schedule
from footplate.section import Every, Section
from footplate.step import Activity, Mean, Step, Table
from footplate.update import LossTerms, Update, UpdateConfig


class Config(Section):
    updates: int = 20
    """How many updates."""
    evaluate: Every = Every(every_updates=5)
    """When to evaluate."""
    fail_at: int | None = None
    """Raise before this update."""
    stateless_between: int | None = None
    """Only each so many updates can be saved."""
    optimizer: Optimizer = Adam(learning_rate=0.05)
    schedule: Schedule = Constant()
    update: UpdateConfig = UpdateConfig()


DEBUG_OVERRIDES = {"updates": 3, "evaluate.every_updates": 2}


class LineLoss(nn.Module):
    def __init__(self, line: nn.Module) -> None:
        super().__init__()
        self.line = line

    def forward(self, points: torch.Tensor) -> LossTerms:
        errors = self.line(points) - (3 * points + 1)
        return LossTerms(
            errors.square().sum(), len(points), {"train/error": Mean(errors.detach().abs().sum(), len(points))}
        )


def train(config: Config, context: Context) -> Iterator[Step]:
    context.seed_torch("initialise")
    line = context.place(nn.Linear(1, 1))
    update = Update(LineLoss(line), config.optimizer, config.schedule, config.update, context, updates=config.updates)
    context.restore(line=line, update=update)
    while update.number < config.updates:
        if config.fail_at == update.number + 1:
            raise ValueError("the line broke")
        points = torch.as_tensor(context.stream("points", update.number).random((8, 1)), dtype=torch.float32)
        metrics = update([points[context.rank :: context.ranks]])
        media = {}
        if config.evaluate.due(update.number) or update.number == config.updates:
            yield Step(update.number, activity=Activity("evaluate", 0, 1))
            error = float((line.weight.detach() - 3).abs())
            metrics["eval/error"] = error
            media = {
                "eval/lines": Table(("slope", "offset"), [(f"{line.weight.item():.3f}", f"{line.bias.item():.3f}")])
            }
        savable = config.stateless_between is None or update.number % config.stateless_between == 0
        yield Step(update.number, metrics, {"points": 8}, {"line": line, "update": update} if savable else None, media)


def evaluate(config: Config, context: Context) -> Iterator[Step]:
    line = context.place(nn.Linear(1, 1))
    number = context.restore(line=line)
    yield Step(number, {"eval/error": float((line.weight.detach() - 3).abs())})
