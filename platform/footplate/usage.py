"""`Usage`: what this process takes of its machine, for the rows of the metrics."""

import os
import resource
import sys
import time
from threading import Lock
from typing import NamedTuple

import torch

from footplate.step import Latest, Mean, Metric

GIB = 2**30
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STATM = "/proc/self/statm"


class Lap(NamedTuple):
    """What a process took of its machine since the lap before."""

    busy_seconds: float
    """Of all cores together."""
    seconds: float
    memory_gib: float
    """Resident at its end."""

    def metrics(self, who: str) -> dict[str, Metric]:
        """`cores` busy, which a row averages over all laps that end in it, and `memory_gib`, of the last one."""
        return {
            f"system/{who}/cores": Mean(self.busy_seconds, self.seconds),
            f"system/{who}/memory_gib": Latest(self.memory_gib),
        }


class Usage:
    """Measures one process, not its children: emulators and readers in processes of their own are not in it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tells_load = device.type == "cuda"
        self._at, self._computed = time.perf_counter(), time.process_time()

    def lap(self) -> Lap:
        """What was taken since the last call, of this or of `measure`."""
        now, computed = time.perf_counter(), time.process_time()
        lap = Lap(computed - self._computed, max(now - self._at, 1e-9), resident_bytes() / GIB)
        self._at, self._computed = now, computed
        return lap

    def measure(self) -> dict[str, float]:
        """`cores`: how many were busy, on average since the last call; `memory_gib`: resident now.

        On a CUDA device also `gpu_memory_gib`, the most that tensors have held, and `gpu_percent`, the part of the last
        moments in which the device was at work, where nvidia-ml-py is installed.
        """
        lap = self.lap()
        found = {"cores": lap.busy_seconds / lap.seconds, "memory_gib": lap.memory_gib}
        if self._device.type == "cuda":
            found["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self._device) / GIB
        if self._tells_load:
            try:
                found["gpu_percent"] = float(torch.cuda.utilization(self._device))
            except Exception:  # no nvidia-ml-py, or a driver that does not tell: not worth a run
                self._tells_load = False
        return found


class UsageOfWorkers:
    """What the workers of a pool take of their machines, by the laps that come with their answers, in any thread."""

    def __init__(self) -> None:
        self._laps: dict[int, Lap] = {}
        self._lock = Lock()

    def add(self, worker: int, lap: Lap) -> None:
        """Count a lap of a worker."""
        with self._lock:
            before = self._laps.get(worker, Lap(0.0, 0.0, 0.0))
            busy, seconds = before.busy_seconds + lap.busy_seconds, before.seconds + lap.seconds
            self._laps[worker] = Lap(busy, seconds, lap.memory_gib)

    def metrics(self) -> dict[str, Metric]:
        """Those of `system/actor-0` and so on, of the workers that have answered since the last call."""
        with self._lock:
            laps, self._laps = self._laps, {}
        return {
            name: metric for worker in sorted(laps) for name, metric in laps[worker].metrics(f"actor-{worker}").items()
        }


def resident_bytes() -> int:
    """The memory of this process that lies in RAM; where the system has no /proc, the most that ever did."""
    try:
        file = os.open(STATM, os.O_RDONLY)  # not by a Path: rows may come a hundred times a second
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    try:
        return int(os.read(file, 100).split()[1]) * PAGE_BYTES
    finally:
        os.close(file)
