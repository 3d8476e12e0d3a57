"""Workers of a pool, where a spawned process can import them."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from footplate.errors import TrainingError
from footplate.shared_parameters import SharedParameters
from footplate.step import Latest, Mean, Metric


class Counter:
    """Counts, and does what goes wrong."""

    def __init__(self, start: int, diary: str = "") -> None:
        if start < 0:
            raise ValueError("no such start")
        self.value, self._diary = start, diary

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    def nap(self, seconds: float) -> int:
        time.sleep(seconds)
        return self.value

    def compute(self, seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    def settings(self) -> tuple[int, bool, bool]:
        ignores = all(signal.getsignal(each) is signal.SIG_IGN for each in (signal.SIGINT, signal.SIGTERM))
        return torch.get_num_threads(), torch.is_anomaly_enabled(), ignores

    def process(self) -> int:
        return os.getpid()

    def divide(self) -> float:
        return 1 / 0

    def complain(self) -> None:
        raise TrainingError("environment 3: it is broken; mend it")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(self) -> None:
        os._exit(3)

    def close(self) -> None:
        if self._diary:
            with Path(self._diary).open("a") as diary:
                diary.write("closed\n")


class Pusher:
    """Pushes gradients of ones."""

    def __init__(self, shared: SharedParameters) -> None:
        self._shared = shared

    def push(self, times: int, learning_rate: float) -> None:
        for _ in range(times):
            self._shared.push([torch.ones_like(one) for one in self._shared.module.parameters()], learning_rate)

    def pull(self) -> list[Tensor]:
        into = [torch.empty_like(one).detach() for one in self._shared.module.parameters()]
        self._shared.pull(into)
        return into

    def close(self) -> None:
        pass


def assert_that_one_computed(usage: Mapping[str, Metric]) -> None:
    """Of two workers the second alone, for 0.2 seconds of a core, since the usage was last asked for."""
    assert set(usage) == {"system/actor-1/cores", "system/actor-1/memory_gib"}
    cores, memory_gib = usage["system/actor-1/cores"], usage["system/actor-1/memory_gib"]
    assert isinstance(cores, Mean)
    assert 0.2 <= float(cores.total) <= 2 * float(cores.count)
    assert isinstance(memory_gib, Latest)
    assert 0.05 < memory_gib.value < 10
