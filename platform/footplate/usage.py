"""`Usage`: what this process takes of its machine, for the rows of the metrics."""

import os
import resource
import sys
import time

import torch

GIB = 2**30
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STATM = "/proc/self/statm"


class Usage:
    """Measures one rank's process, not its children: emulators and readers in processes of their own are not in it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tells_load = device.type == "cuda"
        self._at, self._computed = time.perf_counter(), time.process_time()

    def measure(self) -> dict[str, float]:
        """`cores`: how many were busy, on average since the last call; `memory_gib`: resident now.

        On a CUDA device also `gpu_memory_gib`, the most that tensors have held, and `gpu_percent`, the part of the last
        moments in which the device was at work, where nvidia-ml-py is installed.
        """
        now, computed = time.perf_counter(), time.process_time()
        seconds = max(now - self._at, 1e-9)
        found = {"cores": (computed - self._computed) / seconds, "memory_gib": resident_bytes() / GIB}
        self._at, self._computed = now, computed
        if self._device.type == "cuda":
            found["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self._device) / GIB
        if self._tells_load:
            try:
                found["gpu_percent"] = float(torch.cuda.utilization(self._device))
            except Exception:  # no nvidia-ml-py, or a driver that does not tell: not worth a run
                self._tells_load = False
        return found


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
