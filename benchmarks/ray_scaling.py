"""One and two workers on Ray, and what the shipped recipes would exchange on more: the tables of docs/ray.md.

The workers share the cores of this machine, so that the first table shows what sharing an update costs rather than how
it scales. The second is a model: bytes of the gradient, counted, over the nominal bandwidth of two kinds of link; how
DistributedDataParallel cuts them into buckets is seen in one process. `--model` writes that one alone.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import gymnasium
import torch
from report import machine, replace_block
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from footplate.folder import create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate.tracking.metrics_file import read_rows
from footplate_cluster.connection import connected
from footplate_nlp.model import Seq2Seq, build_model
from footplate_rl.networks import build_network

PAGE = Path(__file__).parents[1] / "docs" / "ray.md"
LINKS = {"NVLink, 450 GB/s": 450e9, "100 Gb/s Ethernet": 12.5e9}
WORKERS = (8, 64)
VOCABULARIES = {"multi30k-de-en": 10_000, "multi30k-en-de-lstm": 10_000}
MODELS = ("pong-paac", "multi30k-de-en", "multi30k-en-de-lstm")


def updates_per_second(recipe: str, workers: int, overrides: list[str], runs: Path) -> float:
    """The median over the rows of the second half of a run."""
    on_ray = ["on=ray", f"resources.workers={workers}", "threads=1", "track.every_updates=10"]
    job = load_job(recipe, [*overrides, *on_ray])
    folder = create_run(runs, f"{recipe}-{workers}", recipe)
    folder.write_job(job.to_yaml())
    launch(job, folder)
    rows = read_rows(folder.metrics)
    return median(row["speed/updates_per_second"] for row in rows[len(rows) // 2 :])


class Summed(nn.Module):
    """The model of a recipe, on an input as small as can be; the sum of its outputs stands for a loss."""

    def __init__(self, recipe: str) -> None:
        super().__init__()
        config = load_job(recipe).config
        frames = gymnasium.spaces.Box(0, 255, (4, 84, 84), "uint8")
        self.model: nn.Module = (
            build_network(config.network, frames, gymnasium.spaces.Discrete(6))
            if hasattr(config, "network")
            else build_model(config.model, *2 * [VOCABULARIES[recipe]])  # type: ignore[attr-defined]
        )

    def forward(self) -> Tensor:
        if isinstance(self.model, Seq2Seq):
            tokens_BT = torch.full((1, 2), 7)
            return self.model.forced(self.model.encode(tokens_BT), tokens_BT).sum()
        outputs_MP, values_M = self.model(torch.zeros(1, 4, 84, 84, dtype=torch.uint8))
        return outputs_MP.sum() + values_M.sum()  # type: ignore[no-any-return]


def buckets(recipe: str) -> list[int]:
    """The bytes of the gradient's buckets, in the order in which they are reduced, as `Update` has them."""
    found: list[int] = []

    def hook(state: None, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
        found.append(bucket.buffer().nbytes)
        return allreduce_hook(distributed.group.WORLD, bucket)

    forward = DistributedDataParallel(Summed(recipe), gradient_as_bucket_view=True)
    forward.register_comm_hook(None, hook)
    for _ in range(2):  # the first pass shows in which order gradients are there
        found.clear()
        forward().backward()
    return found


def milliseconds(gradient_bytes: float, workers: int, bytes_per_second: float) -> float:
    """What a ring needs for one all-reduce: 2 (n - 1) / n times the bytes through each link, latency left out."""
    return 2 * (workers - 1) / workers * gradient_bytes / bytes_per_second * 1000


def main() -> None:
    """Measure, and write the blocks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="store_true", help="the second table alone, which measures nothing")
    parser.add_argument("--recipe", default="copy-transformer")
    parser.add_argument("--updates", type=int, default=200)
    options = parser.parse_args()
    if not options.model:
        write(measured(options.recipe, options.updates), "ray-scaling")
    write(model(), "ray-scaling-model")


def write(lines: list[str], block: str) -> None:
    """Into the page, and onto the screen."""
    replace_block(PAGE, block, lines)
    print("\n".join(lines))


def measured(recipe: str, updates: int) -> list[str]:
    """The table of one and two workers."""
    overrides = [f"updates={updates}", f"evaluate.every_updates={updates}", "evaluate.sentences=8"]
    with tempfile.TemporaryDirectory(prefix="footplate-scaling-") as runs, connected(None):
        rates = [updates_per_second(recipe, workers, overrides, Path(runs)) for workers in (1, 2)]
    return [
        f"| {recipe}, one thread each | 1 worker | 2 workers |",
        "|---|---|---|",
        f"| updates/s | {rates[0]:.1f} | {rates[1]:.1f} |",
        f"| times as fast | 1 | {rates[1] / rates[0]:.2f} |",
        "",
        f"`python benchmarks/ray_scaling.py --updates {updates}`, both on one machine: {machine()}.",
    ]


def model() -> list[str]:
    """The table of what would be exchanged."""
    headings = [f"{workers} workers, {link}" for link in LINKS for workers in WORKERS]
    lines = [
        "| recipe | gradient, MB | of it in the last bucket | " + " | ".join(headings) + " |",
        "|---" * (3 + len(headings)) + "|",
    ]
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    for recipe in MODELS:
        *_, last = sizes = buckets(recipe)
        size = sum(sizes)
        times = [milliseconds(size, workers, speed) for speed in LINKS.values() for workers in WORKERS]
        lines.append(
            f"| {recipe} | {size / 1e6:.1f} | {last / 1e6:.2f} | "
            + " | ".join(f"{time:.2g} ms" for time in times)
            + " |"
        )
    distributed.destroy_process_group()
    return lines


if __name__ == "__main__":
    main()
