"""A task whose updates cost a fixed time, to see what everything around them costs."""

import threading
import time
from collections.abc import Iterator

import torch

from footplate.context import Context
from footplate.section import Count, Positive, Section
from footplate.step import Step

METRICS = ("train/loss", "train/nll", "train/accuracy", "train/entropy", "train/grad_norm", "train/learning_rate")

added_seconds: list[float] = []
"""For each update of the last run: how long this generator was suspended, and what other threads computed since."""


class Config(Section):
    updates: Count = 500
    """How many updates."""
    milliseconds: Positive = 10.0
    """What an update takes."""


def train(config: Config, context: Context) -> Iterator[Step]:
    """One step an update, with metrics as tensors, as a task on a GPU has them."""
    factor = torch.rand(128, 128, generator=context.torch_stream("factor")) / 64
    added_seconds.clear()
    for update in range(1, config.updates + 1):
        until, others = time.perf_counter() + config.milliseconds / 1000, _other_threads_seconds()
        while time.perf_counter() < until:
            factor = factor @ factor / factor.sum()
        step = Step(update, dict.fromkeys(METRICS, factor[0, 0]), {"samples": 64})
        suspended = time.perf_counter()
        yield step
        added_seconds.append(time.perf_counter() - suspended + _other_threads_seconds() - others)


def _other_threads_seconds() -> float:
    assert threading.current_thread() is threading.main_thread()
    return time.process_time() - time.thread_time()
