"""Where the time of a PAAC update on Pong goes: its parts one by one, and all of them one after another.

One thread of torch and one of the emulators. What runs in parallel can only hide one part behind another, so the parts
say what to hope for: on two cores no schedule takes less than half of their sum. How near two schedules come is
measured in the same call, in processes of their own.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer import measure
from report import machine, replace_block

from footplate.context import Context
from footplate.job import load_job
from footplate.update import Update
from footplate_rl.actor import Actor
from footplate_rl.distributions import distribution_of
from footplate_rl.groups import open_groups
from footplate_rl.losses import ActorCriticLoss
from footplate_rl.networks import build_network

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
AGENT = Path(__file__).with_name("agent_steps.py")
SCHEDULES = {
    "no lag": (2, "groups=2", "environment.threads=1"),
    "a lag of one": (1, "environment.threads=2", "lag=1"),
}


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """The median over so many calls, after a few that are not counted."""
    taken = []
    for repeat in range(repeats + 3):
        began = time.perf_counter()
        call()
        if repeat >= 3:
            taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def parts(overrides: list[str], repeats: int) -> dict[str, float]:
    """Milliseconds of each part of an update, and of the whole."""
    config: Any = load_job("pong-paac", ["environment.threads=1", *overrides]).config
    context, count, length = Context(), config.environments, config.rollout_steps
    share = slice(0, count)
    with (
        open_groups(config.environment, share, 1, context.seed) as groups,
        closing(Actor(groups, length, count, share, 1, context)) as actor,
    ):
        environments = groups[0].environments
        network = build_network(config.network, environments.observation_space, environments.action_space)
        loss = ActorCriticLoss(
            network, distribution_of(environments.action_space), config.value_weight, config.entropy_weight
        )
        update = Update(loss, config.optimizer, config.schedule, config.update, context, updates=10**9)
        chance = np.random.default_rng(1)

        def one_update() -> None:
            rollout = actor.rollout(network, update.number)
            returns_TN = rollout.returns(config.discount, config.reward_clip, config.reward_scale)
            update(list(rollout.microbatches(returns_TN, 1)))

        def gradient() -> None:
            network.zero_grad()
            loss(batch).total.backward()

        def act() -> None:
            with torch.inference_mode():
                network(batch.observations[:count])

        actor.reset(0)
        whole = milliseconds(one_update, repeats)
        rollout = actor.rollout(network, 0)
        (batch,) = rollout.microbatches(rollout.returns(config.discount), 1)
        emulators = milliseconds(lambda: environments.step(chance.integers(0, 6, count)), repeats * length)
        acting, learning = milliseconds(act, repeats * length), milliseconds(gradient, repeats)
        updating = milliseconds(lambda: update([batch]), repeats)
    return {
        f"emulators: {length} steps of {count} environments": length * emulators,
        f"acting: {length + 1} forward passes of {count}": (length + 1) * acting,
        f"learning: forward and backward of {length * count}": learning,
        "norm, clipping, optimizer": updating - learning,
        "rest": whole - length * emulators - (length + 1) * acting - updating,
        "all": whole,
    }


def scheduled(overrides: list[str], threads: int, *keys: str) -> float:
    """Milliseconds of an update of the whole agent under this schedule, the median of three processes."""
    words = ["pong-paac", *overrides, f"threads={threads}", *keys, "--warmup", "1000", "--steps", "5000"]
    rate = statistics.median(measure(Path(sys.executable), AGENT, *words, threads=threads)["rate"] for _ in range(3))
    config: Any = load_job("pong-paac", overrides).config
    return 1000 * config.environments * config.rollout_steps / float(rate)


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", default=[], help="key=value ...")
    parser.add_argument("--repeats", type=int, default=100, help="updates that are timed")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    measured = parts(options.overrides, options.repeats)
    lines = ["| part of an update | ms | share |", "|---|---|---|"]
    lines += [f"| {part} | {took:.1f} | {took / measured['all']:.1%} |" for part, took in measured.items()]
    least = measured["all"] / 2
    lines += ["", f"| on two cores | ms an update | of what they allow at most, {least:.1f} ms |", "|---|---|---|"]
    for schedule, settings in SCHEDULES.items():
        took = scheduled(options.overrides, *settings)
        lines.append(f"| {schedule} | {took:.1f} | {least / took:.0%} |")
    print("\n".join(lines))
    command = f"`python benchmarks/paac_profile.py` ({options.repeats} updates, 1 thread)"
    replace_block(PAGE, "paac-profile", [*lines, "", f"{command}, {machine()}."])


if __name__ == "__main__":
    main()
