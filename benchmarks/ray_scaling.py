"""One and two workers on Ray, and what the shipped recipes would exchange on more: the tables of docs/ray.md.

The workers share the cores of this machine, so that the first table shows what sharing an update costs rather than how
it scales. The second is a model: bytes of the gradient, counted, over the nominal bandwidth of two kinds of link.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import gymnasium
from report import machine, replace_block
from torch import nn

from footplate.folder import create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate.tracking.metrics_file import read_rows
from footplate_cluster.connection import connected
from footplate_nlp.model import build_model
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


def parameters(recipe: str) -> int:
    """How many numbers the gradient of a recipe's model has; 4 bytes each."""
    config = load_job(recipe).config
    if hasattr(config, "network"):
        frames = gymnasium.spaces.Box(0, 255, (4, 84, 84), "uint8")
        network: nn.Module = build_network(config.network, frames, gymnasium.spaces.Discrete(6))
    else:
        network = build_model(config.model, *2 * [VOCABULARIES[recipe]])  # type: ignore[attr-defined]
    return sum(parameter.numel() for parameter in network.parameters())


def milliseconds(gradient_bytes: float, workers: int, bytes_per_second: float) -> float:
    """What a ring needs for one all-reduce: 2 (n - 1) / n times the bytes through each link, latency left out."""
    return 2 * (workers - 1) / workers * gradient_bytes / bytes_per_second * 1000


def main() -> None:
    """Measure, and write the block."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="copy-transformer")
    parser.add_argument("--updates", type=int, default=200)
    options = parser.parse_args()
    overrides = [f"updates={options.updates}", f"evaluate.every_updates={options.updates}", "evaluate.sentences=8"]
    with tempfile.TemporaryDirectory(prefix="footplate-scaling-") as runs, connected(None):
        rates = [updates_per_second(options.recipe, workers, overrides, Path(runs)) for workers in (1, 2)]
    lines = [
        f"| {options.recipe}, one thread each | 1 worker | 2 workers |",
        "|---|---|---|",
        f"| updates/s | {rates[0]:.1f} | {rates[1]:.1f} |",
        f"| times as fast | 1 | {rates[1] / rates[0]:.2f} |",
        "",
        f"`python benchmarks/ray_scaling.py --updates {options.updates}`, both on one machine: {machine()}.",
    ]
    replace_block(PAGE, "ray-scaling", lines)
    print("\n".join(lines))
    replace_block(PAGE, "ray-scaling-model", model())
    print("\n".join(model()))


def model() -> list[str]:
    """The table of what would be exchanged."""
    headings = [f"{workers} workers, {link}" for link in LINKS for workers in WORKERS]
    lines = ["| recipe | gradient, MB | " + " | ".join(headings) + " |", "|---" * (2 + len(headings)) + "|"]
    for recipe in MODELS:
        size = 4 * parameters(recipe)
        times = [milliseconds(size, workers, speed) for speed in LINKS.values() for workers in WORKERS]
        lines.append(f"| {recipe} | {size / 1e6:.1f} | " + " | ".join(f"{time:.2g} ms" for time in times) + " |")
    return lines


if __name__ == "__main__":
    main()
