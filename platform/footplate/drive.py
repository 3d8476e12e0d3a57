"""`drive`: the one consumer of steps. It logs, saves, stops and shows progress while the task is suspended."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, nullcontext
from typing import Any

import torch

from footplate.context import Context
from footplate.faults import lack_of_memory_named, losses_named
from footplate.folder import RunFolder
from footplate.job import Job
from footplate.ledger import Ledger
from footplate.record import Record
from footplate.step import Step, metric_value
from footplate.stopping import EarlyStopping
from footplate.usage import Usage


def drive(steps: Generator[Step, None, None], job: Job, context: Context) -> Iterator[Step]:
    """Pass every step on, once it is logged and, where that is due, saved; end where the job says so.

    Every rank drives in step: each adds its wish to stop, and all leave after the same update. Only rank 0 writes, and
    without a run folder nobody does: the steps just pass through.
    """
    books = _Books(Ledger(), EarlyStopping(job.best, job.stop))
    context.restore(drive=books)
    usage = Usage(context.device)
    recording = (
        nullcontext()
        if context.folder is None or context.rank > 0
        else Record(job, RunFolder(context.folder), books.ledger, books.stopping.best_value, locked=context.holds_lock)
    )
    with closing(steps), recording as record, lack_of_memory_named(), losses_named():
        if record is not None:
            record.say_what_the_device_lacks(context.device.type)
        # Killed after its last checkpoint, before it could say so; or resumed although its hours are over.
        if (reason := books.stopping.reason() or _hours_over(job, books)) is not None:
            if record is not None:
                record.stopping(reason)
            return
        for step in steps:
            if step.activity is not None:
                if record is not None:
                    record.activity(step)
                yield step
                continue
            books.ledger.add(step)
            evaluated = any(name.startswith("eval/") for name in step.metrics)
            score, is_best = _score(step, job), False
            if score is not None:
                is_best = books.stopping.observe(score)
            elif evaluated and record is not None:
                record.say_that_the_best_is_missing(step)
            last = step.update >= job.updates
            reason = None if last else _reason_to_stop(job, context, books, record)  # a wish that comes late is met
            row_is_due = step.update % job.track.every_updates == 0 or evaluated or last
            if row_is_due and context.folder is not None:
                used = context.gather(usage.measure())
                if record is not None:
                    record.row(step, books.stopping.best_value, used)
            if record is not None:
                is_due = job.save.due(step.update, evaluated=evaluated) or last or reason is not None
                if is_best and not (is_due and step.state is not None):
                    record.say_that_the_best_is_not_saved(step)
                if step.state is not None and is_due:
                    record.save(step, {"drive": books}, score)
                if reason:
                    record.stopping(reason, saved=step.state is not None)
            yield step
            if reason:
                break


class _Books:
    """What `drive` itself must remember across a kill."""

    def __init__(self, ledger: Ledger, stopping: EarlyStopping) -> None:
        self.ledger = ledger
        self.stopping = stopping

    def state_dict(self) -> dict[str, Any]:
        return {"ledger": self.ledger.state_dict(), "stopping": self.stopping.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.ledger.load_state_dict(state["ledger"])
        self.stopping.load_state_dict(state["stopping"])


def _score(step: Step, job: Job) -> float | None:
    metric = step.metrics.get(job.best.metric) if job.best is not None else None
    return None if metric is None else metric_value(metric)


def _reason_to_stop(job: Job, context: Context, books: _Books, record: Record | None) -> str | None:
    reason = context.stop_requested() or books.stopping.reason()
    if reason is None and record is not None:
        reason = record.stop_requested()
    reason = reason or _hours_over(job, books)
    if context.ranks == 1:
        return reason
    # The tensor lies on the CPU (gloo), so that asking does not wait for the GPU's queue.
    wishes = context.sum(torch.tensor([0 if reason is None else 1]))
    return reason or ("another rank was asked to stop" if int(wishes) else None)


def _hours_over(job: Job, books: _Books) -> str | None:
    hours = job.stop.hours
    if hours is None or books.ledger.seconds < hours * 3600 or books.ledger.update >= job.updates:
        return None
    return f"{hours:g} hours of training are over"
