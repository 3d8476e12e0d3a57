"""Counter-based random streams: each is a pure function of (seed, name, counters), so nothing needs to be saved.

Resuming at update 1,000 asks for the stream of update 1,000 and gets the numbers that the uninterrupted run got. Two
names never share numbers by accident. The generator is Philox (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3"), keyed by the SHA-256 of what the stream is called.
"""

import hashlib

import numpy as np
import torch


def stream_key(seed: int, name: str, *counters: int) -> int:
    """A 128-bit key for the stream called `name` at `counters` (an epoch, an update, a rank: whatever counts).

    >>> stream_key(1, "order", 3) == stream_key(1, "order", 3)
    True
    >>> stream_key(1, "order", 3) == stream_key(1, "order", 4)
    False
    """
    label = "/".join([str(seed), name, *map(str, counters)])
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:16], "little")


def numpy_stream(seed: int, name: str, *counters: int) -> np.random.Generator:
    """A NumPy generator for (seed, name, counters).

    >>> int(numpy_stream(1, "order", 0).integers(1000)) == int(numpy_stream(1, "order", 0).integers(1000))
    True
    """
    return np.random.Generator(np.random.Philox(key=stream_key(seed, name, *counters)))


def torch_seed(seed: int, name: str, *counters: int) -> int:
    """A 63-bit seed, for `torch.manual_seed` or a `torch.Generator`."""
    return stream_key(seed, name, *counters) >> 65


def torch_stream(seed: int, name: str, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device` for (seed, name, counters)."""
    return torch.Generator(device=device).manual_seed(torch_seed(seed, name, *counters))
