"""Prioritised replay beside cpprb (C++): a sample and the update of its priorities, and the memory it takes.

Both sides hand over observations, actions, rewards, next observations, ends and weights, at n-step 1, ready for torch.
Ours gathers what it stores once into memory that the next batch is written over; cpprb stores observations and next
observations, stacks of frames as they are, and hands over arrays of their own. Each side runs in a process of its own,
on one thread. `--memory` fills a replay of a million Atari transitions and says by how much the
process grew.

`python benchmarks/replay_speed.py [--memory] [--write]`
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from peer import measure, python_of
from report import machine, replace_block

from footplate_rl.environments import AtariConfig, Transitions, make_environments
from footplate_rl.replay.kinds import ProportionalReplay, build_replay
from footplate_rl.replay.replay import Replay

PAGE = Path(__file__).parents[1] / "docs" / "dqn.md"
PEER = Path(__file__).parent / "peers" / "cpprb_replay.py"
BATCHES = (32, 256, 1024)
ENVIRONMENTS = 16
ATARI = Box(0, 255, (4, 84, 84), np.uint8)


def filled(transitions: int, space: Box) -> Replay:
    """A replay in which every row is a transition of an endless episode, with priorities all over the place."""
    config, stack = ProportionalReplay(transitions=transitions), 4 if len(space.shape) == 3 else 1
    replay = build_replay(config, space, 6, ENVIRONMENTS, stack, 1, 0.99)
    random, shape = np.random.default_rng(1), (ENVIRONMENTS, *space.shape)
    observations = random.integers(0, 255, (100, *shape)).astype(space.dtype)
    actions, no = np.zeros(ENVIRONMENTS, np.int64), np.zeros(ENVIRONMENTS, np.bool_)
    rewards = np.zeros(ENVIRONMENTS)
    for number in range(-(-transitions // ENVIRONMENTS)):
        shown = observations[number % 100]
        replay.add(shown, actions, Transitions(shown, rewards, no, no, no, ~no, shown[:0], ()), rewards)
    for _ in range(transitions // 1000):
        rows = random.integers(transitions, size=1000)
        replay.update(rows, random.random(1000))
    return replay


def ours(transitions: int, space: Box, rounds: int) -> dict[str, list[float]]:
    """Median and least microseconds for each batch size."""
    replay, random, found = filled(transitions, space), np.random.default_rng(2), {}
    for batch in BATCHES:
        times = []
        for _ in range(rounds):
            errors = random.random(batch)
            began = time.perf_counter()
            drawn = replay.sample(batch, random, beta=0.4)
            replay.update(drawn.rows_B, errors)
            times.append(time.perf_counter() - began)
        found[str(batch)] = [1e6 * float(np.median(times)), 1e6 * float(np.min(times))]
    return found


def grown(transitions: int, compression: bool) -> float:
    """By how many bytes this process grows for a full replay: noise uncompressed, Pong compressed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if not compression:
        replay = filled(transitions, ATARI)
    else:
        config = ProportionalReplay(transitions=transitions, compression="zlib")
        replay, random = build_replay(config, ATARI, 6, ENVIRONMENTS, 4, 1, 0.99), np.random.default_rng(1)
        game = AtariConfig(kind="atari", game="pong")
        with closing(make_environments(game, ENVIRONMENTS)) as environments:
            observations = environments.reset(0)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(-(-transitions // ENVIRONMENTS)):
                actions = random.integers(6, size=ENVIRONMENTS)
                step = environments.step(actions)
                replay.add(observations, actions, step, step.rewards_N)
                observations = step.observations_NO
    assert len(replay) > 0.99 * transitions
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def in_a_process(*arguments: object) -> Any:
    """What this program prints as JSON when it is asked for one measurement."""
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def one(kind: str, transitions: str, *rest: str) -> Any:
    """A measurement by name."""
    if kind == "memory":
        return grown(int(transitions), rest[0] == "zlib")
    space = ATARI if rest[0] == "4x84x84" else Box(-np.inf, np.inf, (4,), np.float32)
    return ours(int(transitions), space, int(rest[1]))


def main() -> None:
    """Measure both sides, one after the other, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true", help="measure memory too: 7.1 GB of it")
    parser.add_argument("--rounds", type=int, default=1000, help="how often each batch is drawn")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*options.one)))
        return
    peer = python_of("cpprb", "cpprb==11.0.0", "numpy", with_torch=False)
    lines = ["| observation | transitions | batch | Footplate, us | cpprb, us |", "|---|---|---|---|---|"]
    for shape, sizes in (("4", (10_000, 100_000, 1_000_000)), ("4x84x84", (10_000,))):
        rounds = options.rounds if shape == "4" else options.rounds // 5
        for transitions in sizes:
            own = in_a_process("speed", transitions, shape, rounds)
            other = measure(peer, PEER, str(transitions), shape, str(rounds), *map(str, BATCHES), threads=1)
            for batch in map(str, BATCHES):
                cells = [f"{side[batch][0]:,.0f} ({side[batch][1]:,.0f})" for side in (own, other)]
                lines.append(f"| {shape} | {transitions:,} | {batch} | {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    lines += ["", f"Medians (least) of {options.rounds:,} rounds, {options.rounds // 5} with frames; {machine()}."]
    if options.memory:
        plain = in_a_process("memory", 1_000_000, "plain")
        compressed = in_a_process("memory", 100_000, "zlib")
        lines += [
            "",
            f"A full replay of 1,000,000 Atari transitions makes its process grow by {plain / 1e9:.2f} GB; one of "
            f"100,000 of Pong, compressed, by {compressed / 1e9:.3f} GB.",
        ]
        print(lines[-1])
    if options.write:
        replace_block(PAGE, "replay", lines)


if __name__ == "__main__":
    main()
