"""`make chaos KILLS=200`: kill small runs at random moments, resume them, and see that nothing is lost.

Each recipe is trained once without disturbance, then again and again with up to ten kills each, until there were enough
kills; every one of those runs must end with the same bytes. The figures go into docs/resume.md.
"""

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kills import MOMENTS, SHARES, Figures, Victim, check_equal, kill_all_of
from report import machine, replace_block

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("chaos.json")
KILLS_OF_A_RUN = 10
ALWAYS = ["threads=1", "track.every_updates=1"]
RECIPES = {
    "copy-transformer": ["updates=300", "evaluate.every_updates=50", "save.every_updates=7", "schedule.kind=plateau"],
    "catch-paac": ["steps=32000", "reset_every_updates=10", "evaluate.every_updates=100", "save.every_updates=10"],
}


def torment(
    recipe: str, overrides: list[str], kills: int, chance: random.Random, runs: Path, figures: Figures
) -> Iterator[Figures]:
    """Kill runs of a recipe so many times more; yields the figures, all in all, after each run.

    Raises AssertionError, and keeps the runs, where one ends differently.
    """
    wanted = figures.kills + kills
    through = Victim(recipe, overrides, runs, f"{recipe}-through", Figures()).let_it_end()
    while figures.kills < wanted:
        victim = Victim(recipe, overrides, runs, f"{recipe}-killed-{figures.runs + 1}", figures)
        for _ in range(min(KILLS_OF_A_RUN, wanted - figures.kills)):
            moment = chance.choices(MOMENTS, SHARES)[0]
            if not victim.live_and_die(moment, chance, kill_all_of):
                break
        check_equal(through, victim.let_it_end())
        figures.runs += 1
        figures.updates += len(victim.folder.metrics.read_bytes().splitlines())
        print(f"{recipe}: {figures.kills} kills, {figures.kills_during_a_write} during a write", flush=True)
        shutil.rmtree(victim.folder.path)
        yield figures


def write_table(results: dict[str, Any]) -> None:
    """Put every result so far into docs/resume.md, one a column; each says when and where it was measured."""
    names = list(results)
    columns = [dict(Figures(**results[name]["figures"]).lines()) for name in names]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {label} | " + " | ".join(column[label] for column in columns) + " |" for label in columns[0]]
    lines += ["", *(f"- {name}: {results[name]['machine']}" for name in names)]
    replace_block(ROOT / "docs" / "resume.md", "chaos", lines)


def main() -> None:
    """Kill what is asked for, and bring the table up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many, shared among the recipes")
    parser.add_argument("--recipe", action="append", choices=RECIPES, help="only this one (may be repeated)")
    parser.add_argument("--on", choices=["here", "ray"], default="here")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--more", action="store_true", help="add to the figures that are there, with another --seed")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    options = parser.parse_args()
    ray = options.on == "ray"
    where = [f"on={options.on}", f"resources.workers={options.workers}"] if ray else []
    recipes = options.recipe or list(RECIPES)
    runs = Path(tempfile.mkdtemp(prefix="footplate-chaos-"))
    print(f"the runs lie in {runs}; they stay there if one ends differently")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for number, recipe in enumerate(recipes):
        kills = (options.kills + number) // len(recipes)
        chance = random.Random(f"{options.seed} {recipe}")
        name = f"{recipe}, {options.workers} workers on Ray" if ray else recipe
        figures = Figures(**results[name]["figures"]) if options.more and name in results else Figures()
        for _ in torment(recipe, [*ALWAYS, *RECIPES[recipe], *where], kills, chance, runs, figures):
            results[name] = {"figures": asdict(figures), "machine": machine()}
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            write_table(results)
        print("\n".join(f"{value:>8}  {label}" for label, value in figures.lines()))
    shutil.rmtree(runs)


if __name__ == "__main__":
    main()
