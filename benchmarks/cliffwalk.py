"""The blind cliffwalk of Schaul et al. 2016: how many updates prioritised replay saves, drawn into docs/cliffwalk.png.

The memory holds every transition of all 2^n sequences of actions, each played until it ends, so that the one that pays
is one of 2^(n+1) - 2. A table of Q is learnt from one drawn transition at a time until its mean squared error is
below 10^-3: as in the paper (section 3.1 and appendix B.1) with discount 1 - 1/n, step size 1/4 and a start drawn from
a normal distribution of deviation 0.1. The medians of some seeds go into docs/dqn.md.

`python benchmarks/cliffwalk.py --longest 10 --seeds 10`
"""

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from report import machine, replace_block

from footplate_rl.replay.rank import Ranked
from footplate_rl.replay.selection import Proportional, Selection, Uniform
from footplate_rl.toys import Cliffwalk

DOCS = Path(__file__).parents[1] / "docs"
MOST_UPDATES = 1_000_000
KINDS: dict[str, Callable[[int], Selection]] = {
    "uniform": Uniform,
    "proportional": lambda rows: Proportional(rows, alpha=0.6, epsilon=1e-6, mix=0.0),
    "rank": lambda rows: Ranked(rows, alpha=0.7, mix=0.0),
}


class Transition(NamedTuple):
    """From a state by an action to the next one; `following` is None behind the end."""

    state: int
    action: int
    reward: float
    following: int | None


def memory(length: int) -> list[Transition]:
    """Every transition of all sequences of actions."""
    environment, transitions = Cliffwalk(length), []
    for actions in product(range(2), repeat=length):
        environment.reset()
        for state, action in enumerate(actions):
            _, reward, ended, _, _ = environment.step(action)
            transitions.append(Transition(state, action, reward, None if ended else state + 1))
            if ended:
                break
    return transitions


def true_values(length: int, discount: float) -> NDArray[np.float64]:
    """Q(s, a): discount^(length - 1 - s) for the right action, 0 for the other one."""
    values = np.zeros((length, 2))
    for state in range(length):
        values[state, Cliffwalk.right_action(state)] = discount ** (length - 1 - state)
    return values


def updates_to_learn(length: int, select: Callable[[int], Selection], seed: int) -> int:
    """How many updates it takes, MOST_UPDATES where it takes more."""
    random, discount = np.random.default_rng([seed, length]), 1 - 1 / length
    found = memory(length)
    transitions = [found[index] for index in random.permutation(len(found))]
    truth, values = true_values(length, discount), random.normal(0.0, 0.1, (length, 2))
    selection = select(len(transitions))
    selection.enter(np.arange(len(transitions)))
    # What is drawn uniformly does not depend on what was learnt: a thousand at once are the same.
    size = 1000 if isinstance(selection, Uniform) else 1
    update = 0
    while update < MOST_UPDATES:
        for row in selection.draw(size, random).rows_B.tolist():
            state, action, reward, following = transitions[row]
            target = reward + (discount * values[following].max() if following is not None else 0.0)
            error = target - values[state, action]
            values[state, action] += error / 4
            selection.update(np.array([row]), np.array([abs(error)]))
            update += 1
            if ((values - truth) ** 2).mean() < 1e-3:
                return update
    return MOST_UPDATES


def draw(results: dict[str, dict[int, list[int]]]) -> None:
    """Median updates over the size of the memory, with the range of the seeds."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for kind, by_length in results.items():
        sizes = [2 ** (length + 1) - 2 for length in by_length]
        (line,) = axes.plot(sizes, [np.median(counts) for counts in by_length.values()], marker="o", label=kind)
        low, high = zip(*((min(counts), max(counts)) for counts in by_length.values()), strict=True)
        axes.fill_between(sizes, low, high, alpha=0.2, color=line.get_color())
    axes.set(
        xscale="log", yscale="log", xlabel="transitions in memory", ylabel="updates until the error is below 10$^{-3}$"
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(DOCS / "cliffwalk.png", dpi=120)


def main() -> None:
    """Learn every length with every kind, draw the figure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--longest", type=int, default=10, help="the largest number of states")
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds, from 1")
    options = parser.parse_args()
    results: dict[str, dict[int, list[int]]] = {kind: {} for kind in KINDS}
    for length in range(2, options.longest + 1):
        for kind, select in KINDS.items():
            counts = [updates_to_learn(length, select, seed) for seed in range(1, options.seeds + 1)]
            results[kind][length] = counts
            print(
                f"{length} states, {kind}: median {np.median(counts):.0f}, {min(counts)} to {max(counts)}", flush=True
            )
    draw(results)
    lines = ["| states | transitions | " + " | ".join(KINDS) + " |", "|" + "---|" * (2 + len(KINDS))]
    for length in results["uniform"]:
        medians = " | ".join(f"{np.median(results[kind][length]):,.0f}" for kind in KINDS)
        lines.append(f"| {length} | {2 ** (length + 1) - 2:,} | {medians} |")
    lines += ["", f"Medians of {options.seeds} seeds; {machine()}."]
    replace_block(DOCS / "dqn.md", "cliffwalk", lines)


if __name__ == "__main__":
    main()
