"""Agents beside those of other libraries, and how PAAC's cost grows with environments; writes docs/speed.md.

Every side learns with the same network, batches and kind of optimizer, each in a process of its own, and they are
measured in turn. First every setting is tried once for each side; the rounds then measure the best of each.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from peer import measure, python_of
from report import machine, replace_block

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "speed.md"
PROGRAMS = ROOT / "benchmarks"
SHARED = ("gymnasium", "ale-py", "numpy")
OURS, SB3, TIANSHOU = "agent_steps.py", "peers/sb3_steps.py", "peers/tianshou_steps.py"
PACKAGES = {
    SB3: ("sb3", "stable-baselines3==2.9.2", "opencv-python-headless==5.0.0.93"),
    TIANSHOU: ("tianshou", "tianshou==2.0.1", "opencv-python-headless==5.0.0.93"),
}
SCALES = (4, 8, 16, 32, 64, 128)


class Setting(NamedTuple):
    """One way to run one side."""

    threads: int
    """torch's."""
    words: tuple[str, ...] = ()
    """What is said on the command line besides: a vector environment of theirs, keys of ours."""

    def __str__(self) -> str:
        return ", ".join((*self.words, f"threads={self.threads}"))


class Side(NamedTuple):
    """One library's agent."""

    name: str
    program: str
    words: tuple[str, ...]
    """What the program is asked for, whatever the setting."""
    settings: tuple[Setting, ...]


class Case(NamedTuple):
    """What all sides are asked to do."""

    warmup: int
    """Environment steps that are not timed."""
    steps: int
    """Those that are."""
    sides: tuple[Side, ...]
    """The first is what the others are compared with."""


VECTORS = tuple(Setting(threads, (vector,)) for vector in ("dummy", "subproc") for threads in (1, 2))
EITHER = (Setting(1), Setting(2))
EMULATORS = tuple(Setting(threads, (f"environment.threads={emulators}",)) for threads in (1, 2) for emulators in (1, 2))
ALONE = tuple(
    Setting(threads, (f"groups={groups}", f"environment.threads={emulators}"))
    for threads in (1, 2)
    for groups, emulators in ((1, 2), (2, 1))
)
# Beside an actor the learner has no core to spare.
BESIDE = ALONE[:2]

# Without what only ours has, and exploring as much as the others.
PLAIN_DQN = (
    *("learning_starts_steps=1000", "replay.transitions=20000", "double=false", "dueling=false", "n_step=1"),
    *("exploration.initial=0.1", "exploration.final=0.1"),
)


def a2c(game: str, environments: int) -> tuple[Side, ...]:
    """stable-baselines3's A2C, and PAAC without and, for Atari, with a lag."""
    recipe = (f"{game}-paac", f"environments={environments}")
    lagging = [Side("PAAC, lag=1", OURS, (*recipe, "lag=1"), BESIDE)] if game == "pong" else []
    return (
        Side("stable-baselines3 A2C", SB3, ("a2c", game, str(environments)), VECTORS),
        Side("PAAC, lag=0", OURS, recipe, ALONE if game == "pong" else EITHER),
        *lagging,
    )


def a3c(game: str, environments: int) -> Side:
    """A3C by two processes that share so many environments."""
    words = (f"{game}-a3c", "workers=2", f"environments={environments // 2}")
    return Side("A3C, 2 processes", OURS, words, (Setting(1),))


def dqn(game: str) -> tuple[Side, ...]:
    """The peers' DQN with uniform replay, and ours with each kind."""
    settings = EMULATORS if game == "pong" else EITHER
    ours = [
        Side(f"DQN, {kind}", OURS, (f"{game}-dqn", f"replay.kind={kind}", *PLAIN_DQN), settings)
        for kind in ("uniform", "proportional")
    ]
    return (
        Side("stable-baselines3 DQN", SB3, ("dqn", game, "8"), VECTORS),
        Side("Tianshou DQN", TIANSHOU, (game, "8"), VECTORS),
        Side("Tianshou DQN, proportional", TIANSHOU, (game, "8", "--prioritised"), VECTORS),
        *ours,
    )


def ppo(game: str) -> tuple[Side, ...]:
    """stable-baselines3's PPO, and ours."""
    return (
        Side("stable-baselines3 PPO", SB3, ("ppo", game, "8"), VECTORS),
        Side("PPO", OURS, (f"{game}-ppo",), ALONE if game == "pong" else EITHER),
    )


CASES = {
    "pong-16": Case(1_000, 5_000, (*a2c("pong", 16), a3c("pong", 16))),
    "pong-32": Case(1_000, 5_000, (*a2c("pong", 32), a3c("pong", 32))),
    "cartpole": Case(10_000, 50_000, (*a2c("cartpole", 32), a3c("cartpole", 32))),
    "pong-dqn": Case(1_200, 600, dqn("pong")),
    "cartpole-dqn": Case(1_500, 4_000, dqn("cartpole")),
    "pong-ppo": Case(1_000, 3_000, ppo("pong")),
    "cartpole-ppo": Case(5_000, 30_000, ppo("cartpole")),
}


def python_for(program: str) -> Path:
    """The interpreter of a side: this one, or that of the peer, with the same versions of what both use."""
    if program not in PACKAGES:
        return Path(sys.executable)
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    return python_of(*PACKAGES[program], *(line for line in pinned if line.partition("==")[0] in SHARED))


def measured(side: Side, setting: Setting, warmup: int, steps: int) -> dict[str, float]:
    """`rate` in steps a second; ours also `resident_mebibytes`, the most that its first process had."""
    words = [*side.words, *setting.words]
    if side.program == OURS:
        words.append(f"threads={setting.threads}")
    counts = ["--warmup", str(warmup), "--steps", str(steps)]
    found: dict[str, float]
    found = measure(python_for(side.program), PROGRAMS / side.program, *words, *counts, threads=setting.threads)
    print(f"{found['rate']:9,.0f} steps/s  {side.name} ({setting})", flush=True)
    return found


def compare(case: Case, rounds: int) -> list[str]:
    """The table of a case."""
    best = {
        side: max(side.settings, key=lambda setting: measured(side, setting, case.warmup, case.steps)["rate"])
        for side in case.sides
    }
    rates: dict[Side, list[float]] = {side: [] for side in case.sides}
    for _ in range(rounds):
        for side in case.sides:
            rates[side].append(measured(side, best[side], case.warmup, case.steps)["rate"])
    rows = ["| | best setting | steps/s, median | lowest | highest | ratio |", "|---|---|---|---|---|---|"]
    reference = statistics.median(rates[case.sides[0]])
    for side, values in rates.items():
        median = statistics.median(values)
        numbers = [f"{value:,.0f}" for value in (median, min(values), max(values))]
        rows.append("| " + " | ".join([side.name, str(best[side]), *numbers, f"{median / reference:.2f}"]) + " |")
    return rows


def scaling(rounds: int) -> list[str]:
    """Steps a second and memory of Pong against the number of environments."""
    lines = ["| environments | steps/s | with lag=1 | MiB resident | with lag=1 |", "|---|---|---|---|---|"]
    for environments in SCALES:
        _, *sides = a2c("pong", environments)
        found = [[measured(side, ALONE[1], 1_000, 5_000) for _ in range(rounds)] for side in sides]
        rates = [f"{statistics.median(one['rate'] for one in of):,.0f}" for of in found]
        memory = [f"{max(one['resident_mebibytes'] for one in of):,.0f}" for of in found]
        lines.append(f"| {environments} | " + " | ".join(rates + memory) + " |")
    return [*lines, "", f"{ALONE[1]}; median of {rounds}."]


def main() -> None:
    """Measure, print, and write the blocks `CASE-speed` and `scaling-environments`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=[*CASES, "scaling"], nargs="*", help="measure and write these")
    options = parser.parse_args()
    for name in options.only or [*CASES, "scaling"]:
        lines = scaling(options.rounds) if name == "scaling" else compare(CASES[name], options.rounds)
        lines += ["", f"`python benchmarks/agents_speed.py --only {name} --rounds {options.rounds}`, {machine()}."]
        print(*lines, sep="\n")
        replace_block(PAGE, "scaling-environments" if name == "scaling" else f"{name}-speed", lines)


if __name__ == "__main__":
    main()
