"""PAAC beside the A2C of stable-baselines3, and how its cost grows with environments; writes docs/speed.md.

Both sides learn with the same network, rollout and kind of optimizer, each in a process of its own, and are measured
in turn. First every setting is tried once for each side; the rounds then measure the best of each.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from peer import measure, python_of
from report import machine, replace_block

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "speed.md"
PROGRAMS = ROOT / "benchmarks"
PACKAGES = ("stable-baselines3==2.9.2", "opencv-python-headless==5.0.0.93")
SHARED = ("gymnasium", "ale-py", "numpy")
SCALES = (4, 8, 16, 32, 64, 128)


class Setting(NamedTuple):
    """One way to run one side."""

    threads: int
    """torch's."""
    words: tuple[str, ...]
    """What is said on the command line: a vector environment of theirs, keys of ours."""

    def __str__(self) -> str:
        return ", ".join((*self.words, f"threads={self.threads}"))


class Case(NamedTuple):
    """What both sides are asked to do."""

    game: str
    environments: int
    recipe: str
    rollout: int
    ours: dict[str, tuple[Setting, ...]]
    """The settings that are tried, by what says how far the actor lags behind."""

    @property
    def updates(self) -> tuple[int, int]:
        """How many of warming up, and how many that are timed: some 5,000 steps of Pong, 50,000 of CartPole."""
        steps = {"pong": 5_000, "cartpole": 50_000}[self.game]
        timed = steps // (self.environments * self.rollout)
        return max(5, timed // 5), timed


ALONE = tuple(
    Setting(threads, (f"groups={groups}", f"environment.threads={emulator_threads}"))
    for threads in (1, 2)
    for groups, emulator_threads in ((1, 2), (2, 1))
)
# Beside an actor the learner has no core to spare.
BESIDE = ALONE[:2]
PONG = {"lag=0": ALONE, "lag=1": BESIDE}
CASES = {
    "pong-16": Case("pong", 16, "pong-paac", 5, PONG),
    "pong-32": Case("pong", 32, "pong-paac", 5, PONG),
    "cartpole": Case("cartpole", 32, "cartpole-paac", 32, {"lag=0": (Setting(1, ()), Setting(2, ()))}),
}
THEIRS = tuple(Setting(threads, (vector,)) for vector in ("dummy", "subproc") for threads in (1, 2))


def ours(case: Case, lag: str, setting: Setting) -> dict[str, float]:
    """`rate` in steps a second, and `resident_mebibytes` at most."""
    keys = [f"environments={case.environments}", lag, f"threads={setting.threads}", *setting.words]
    return run(Path(sys.executable), "paac_steps.py", [case.recipe, *keys], case, setting)


def theirs(case: Case, setting: Setting) -> dict[str, float]:
    """The same of stable-baselines3, whose processes are all counted."""
    arguments = [case.game, "--environments", str(case.environments), "--vector", *setting.words]
    return run(sb3(), "peers/sb3_a2c.py", arguments, case, setting)


def sb3() -> Path:
    """The interpreter that has stable-baselines3, and of what both sides use the same versions."""
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    return python_of("sb3", *PACKAGES, *(line for line in pinned if line.partition("==")[0] in SHARED))


def run(python: Path, program: str, arguments: Sequence[str], case: Case, setting: Setting) -> dict[str, float]:
    warmup, updates = case.updates
    counts = ["--warmup", str(warmup), "--updates", str(updates)]
    found: dict[str, float] = measure(python, PROGRAMS / program, *arguments, *counts, threads=setting.threads)
    print(f"{found['rate']:9,.0f} steps/s  {program} {' '.join(arguments)} ({setting})", flush=True)
    return found


def compare(case: Case, rounds: int) -> list[str]:
    """The table of a case: theirs, then ours with each lag."""
    sides: dict[str, Any] = {"stable-baselines3 A2C": (THEIRS, lambda setting: theirs(case, setting))}
    for lag, settings in case.ours.items():
        sides[f"PAAC, {lag}"] = (settings, lambda setting, lag=lag: ours(case, lag, setting))
    best = {name: max(settings, key=lambda setting: side(setting)["rate"]) for name, (settings, side) in sides.items()}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (_, side) in sides.items():
            rates[name].append(side(best[name])["rate"])
    rows = ["| | best setting | steps/s, median | lowest | highest | ratio |", "|---|---|---|---|---|---|"]
    reference = statistics.median(next(iter(rates.values())))
    for name, values in rates.items():
        median = statistics.median(values)
        numbers = [f"{value:,.0f}" for value in (median, min(values), max(values))]
        rows.append("| " + " | ".join([name, str(best[name]), *numbers, f"{median / reference:.2f}"]) + " |")
    return rows


def scaling(rounds: int) -> list[str]:
    """Steps a second and memory of Pong against the number of environments."""
    lines = ["| environments | steps/s | with lag=1 | MiB resident | with lag=1 |", "|---|---|---|---|---|"]
    for environments in SCALES:
        case = CASES["pong-16"]._replace(environments=environments)
        found = [[ours(case, lag, settings[1]) for _ in range(rounds)] for lag, settings in case.ours.items()]
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
        lines += ["", f"`python benchmarks/pong_speed.py --only {name} --rounds {options.rounds}`, {machine()}."]
        print(*lines, sep="\n")
        replace_block(PAGE, "scaling-environments" if name == "scaling" else f"{name}-speed", lines)


if __name__ == "__main__":
    main()
