"""What a checkpoint costs: how long `save` holds training up, what the write takes, how much slower updates are then.

A model of 100 million parameters with Adam's state, 1.2 GB, and updates of one thread that go on all the time.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from report import machine, replace_block
from torch import nn

from footplate.checkpoint import CheckpointStore

ROOT = Path(__file__).parents[1]
LAYERS, WIDTH, BATCH = 16, 2500, 32


class Training:
    """A model, its optimizer, and updates of it."""

    def __init__(self) -> None:
        self.model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self._inputs = torch.randn(BATCH, WIDTH)

    def update(self) -> float:
        """Make an update; its seconds."""
        began = time.perf_counter()
        self.optimizer.zero_grad()
        self.model(self._inputs).square().mean().backward()
        self.optimizer.step()
        return time.perf_counter() - began


def checkpoint(training: Training, store: CheckpointStore, number: int) -> tuple[float, float, float]:
    """Seconds that `save` held training up, that the write took, and of an update meanwhile."""
    began = time.perf_counter()
    store.save(number, {"model": training.model, "optimizer": training.optimizer})
    held_up = time.perf_counter() - began
    updates = []
    while any(store.folder.glob(".writing-*")) or not updates:
        updates.append(training.update())
    store.wait()
    return held_up, time.perf_counter() - began - held_up, statistics.mean(updates)


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=4)
    saves = parser.parse_args().saves
    torch.set_num_threads(1)
    training = Training()
    alone = statistics.mean([training.update() for _ in range(8)][2:])
    lines = ["| save | training held up, s | write, s | held up / write | update alone, s | while writing, s |"]
    lines.append("|---" * 6 + "|")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        store = CheckpointStore(Path(folder) / "checkpoints", print, keep_last=1, keep_best=0)
        for number in range(1, saves + 1):
            held_up, write, meanwhile = checkpoint(training, store, number)
            figures = f"{held_up:.2f} | {write:.2f} | {held_up / write:.1%} | {alone:.2f} | {meanwhile:.2f}"
            lines.append(f"| {number} | {figures} |")
            print(lines[-1], flush=True)
        store.close()
    replace_block(
        ROOT / "docs" / "speed.md", "checkpoint", [*lines, "", f"`python benchmarks/checkpoint_stall.py`, {machine()}."]
    )


if __name__ == "__main__":
    main()
