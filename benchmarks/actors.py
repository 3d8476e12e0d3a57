"""How much a parameter actor and the shards of a replay can take, over the number of those who ask them.

Those who ask do nothing else: in A3C they push a gradient that they have, in Ape-X they hand over a rollout of Pong
that they played once, and the learner learns nothing. So the figures are what the way there can carry.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import machine, replace_block
from torch import nn

from footplate.context import Context
from footplate.job import load_job
from footplate.shared_parameters import Parameters
from footplate_rl.distributed.actor import Actor, Chunk, Weights
from footplate_rl.distributed.config import Config
from footplate_rl.distributed.flow import Flow
from footplate_rl.distributed.shard import Shard
from footplate_rl.environments import make_environments
from footplate_rl.policy import build_policy_network
from footplate_rl.value_learning import value_network

ROOT = Path(__file__).parents[1]
SATURATED = 1.1  # twice as many askers, and less than so many times as much


class Pusher:
    """Worker of a pool: pulls, and pushes the same gradient."""

    def __init__(self, parameters: Parameters, shapes: list[torch.Size]) -> None:
        self._parameters = parameters
        self._own = [torch.zeros(shape) for shape in shapes]
        self._gradients = [torch.full(shape, 1e-6) for shape in shapes]

    def push(self, seconds: float) -> tuple[int, int]:
        """How many times in so many seconds, and how many pushes of others came between a pull and its push."""
        until, pushes, others = time.monotonic() + seconds, 0, 0
        while time.monotonic() < until:
            version = self._parameters.pull(self._own)
            others += self._parameters.push(self._gradients, 1e-9) - version
            pushes += 1
        return pushes, others

    def close(self) -> None:
        """There is nothing to close."""


class Tape(Actor):
    """Worker of a pool: an actor that played one rollout and hands it over whenever it is asked."""

    def reset(self, number: int) -> None:
        super().reset(number)
        weights = [parameter.detach().numpy() for parameter in self._network.parameters()]
        first, rest = super().play(0, weights), super().cut()
        errors_B = np.concatenate([first.errors_B, rest.errors_B])
        self._chunk_again = Chunk(first.played, rest.observations_NO, True, errors_B, first.transitions, ())

    def play(self, number: int, weights: Weights | None) -> Chunk:
        return self._chunk_again


def make_tape(config: Config, number: int) -> Tape | Shard:
    """The workers of one pool."""
    return Tape(config, number, 1, "fp32") if number < config.actors else Shard(config, number - config.actors, 1)


@contextmanager
def place(where: str, workers: int) -> Iterator[Context]:
    """Processes of this machine, or a placement group with room for so many workers."""
    if where == "processes":
        yield Context()
        return
    from ray.util.placement_group import placement_group, remove_placement_group

    from footplate_cluster.actors import Actors
    from footplate_cluster.parameters import RayParameters

    group = placement_group([{"CPU": 0.01}] * (1 + workers))
    group.wait(120)
    yield Context(pool=Actors(group, 0.01).open, share=partial(RayParameters, group=group))
    remove_placement_group(group)


def pushes_a_second(where: str, askers: int, seconds: float) -> tuple[float, float]:
    """Updates a second by so many workers with the network of `pong-a3c`, and their mean staleness."""
    config: Any = load_job("pong-a3c").config
    with closing(make_environments(config.environment, 1)) as environments:
        spaces = environments.observation_space, environments.action_space
    network: nn.Module = build_policy_network(config.network, None, *spaces)
    shapes = [parameter.shape for parameter in network.parameters()]
    with place(where, askers) as context:
        shared = context.share(network, config.optimizer)
        with closing(context.pool(Pusher, [(shared, shapes)] * askers, processes=True)) as pool:
            for warm in [pool.submit(worker, "push", 0.2) for worker in range(askers)]:
                warm.result()
            found = [push.result() for push in [pool.submit(worker, "push", seconds) for worker in range(askers)]]
    pushes = sum(one for one, _ in found)
    return pushes / seconds, sum(others for _, others in found) / max(1, pushes)


def transitions_a_second(where: str, askers: int, shards: int, seconds: float) -> float:
    """Transitions of Pong a second that so many actors have stored in so many shards, eight windows drawn for each."""
    job = load_job(
        "pong-apex",
        [f"actors={askers}", "environments=1", f"shards={shards}", "replay.transitions=40000",
         "learning_starts_steps=2000"],
    )  # fmt: skip
    config: Any = job.config
    with closing(make_environments(config.environment, 1)) as environments:
        network = value_network(config, environments.observation_space, environments.action_space, Context())
    with place(where, askers + shards) as context:
        workers = [(config, number) for number in range(askers + shards)]
        with closing(context.pool(make_tape, workers, processes=True)) as pool:
            flow = Flow(pool, config, context)
            flow.begin(0, network)
            update, began, stored = 0, 0.0, 0
            while not began or time.monotonic() - began < seconds:
                drawing = flow.batch(update, 10**9)
                try:
                    while True:
                        next(drawing)
                except StopIteration as drawn:
                    worker, batch = drawn.value
                flow.learnt(worker, batch, np.ones(config.batch_size))
                update += 1
                _, transitions = flow.take_metrics()
                if began:
                    stored += transitions
                elif update == 3:
                    began = time.monotonic()
            return stored / (time.monotonic() - began)


def saturation(counts: list[int], rates: list[float]) -> str:
    """From which number of askers on twice as many bring less than a tenth more."""
    for (count, rate), following in zip(zip(counts, rates, strict=True), rates[1:], strict=False):
        if following < SATURATED * rate:
            return str(count)
    return f"beyond {counts[-1]}"


def row(name: str, counts: list[int], measure: Callable[[int], float], least: int = 1) -> str:
    """A line of a table, printed as it grows, for so many askers and more."""
    asked, rates = [count for count in counts if count >= least], []
    for count in asked:
        rates.append(measure(count))
        print(f"{name}, {count}: {rates[-1]:,.0f}", flush=True)
    cells = ["-"] * (len(counts) - len(asked)) + [f"{rate:,.0f}" for rate in rates]
    return f"| {name} | {' | '.join(cells)} | {saturation(asked, rates)} |"


def main() -> None:
    """Measure, print, and write the tables into docs/a3c.md and docs/apex.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="how long each figure is measured")
    parser.add_argument("--askers", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--where", nargs="+", default=["processes", "ray"], choices=["processes", "ray"])
    parser.add_argument("--only", choices=["parameters", "shards"], help="one of the two tables")
    parser.add_argument("--write", action="store_true", help="bring the docs up to date")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from footplate_cluster.connection import connected

    counts, seconds = options.askers, options.seconds
    head = ["| | " + " | ".join(map(str, counts)) + " | saturated from |", "|---" * (len(counts) + 2) + "|"]
    notes = ["", f"`python benchmarks/actors.py --seconds {seconds:g} --write`; {machine()}."]
    with connected(None) if "ray" in options.where else nullcontext():
        if options.only != "shards":
            lines = [
                row(f"updates/s, {name}", counts, lambda count, where=where: pushes_a_second(where, count, seconds)[0])  # type: ignore[misc]
                for where, name in (("processes", "shared memory"), ("ray", "parameter actor"))
                if where in options.where
            ]
            if options.write:
                replace_block(ROOT / "docs" / "a3c.md", "parameter-actor", [*head, *lines, *notes])
        if options.only != "parameters":
            lines = [
                row(
                    f"transitions/s, {where}, {shards} shard{'s' * (shards > 1)}",
                    counts,
                    lambda count, where=where, shards=shards: transitions_a_second(where, count, shards, seconds),  # type: ignore[misc]
                    least=shards,
                )
                for where in options.where
                for shards in (1, 2)
            ]
            if options.write:
                replace_block(ROOT / "docs" / "apex.md", "shards", [*head, *lines, *notes])


if __name__ == "__main__":
    main()
