"""What a sweep comes to: a table, the same as JSON and CSV, and a picture."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from footplate.errors import FootplateError, TrainingError
from footplate.folder import relative
from footplate.sweeps.folder import Standing, SweepFolder
from footplate.sweeps.importance import Importance, importances
from footplate.sweeps.sweep import short_keys, shown_setting
from footplate.tables import print_table
from footplate.tracking.progress import duration, number

STATES = {"halved": "stopped by ASHA"}
MOST_ROWS = 40
"""The screen shows the best of more trials; the files have them all."""


def show_sweep(sweep: SweepFolder, output: Path | None = None) -> None:
    """Print the table, write `sweep.json` and `sweep.csv`, draw the picture.

    Raises FootplateError where no trial has a score yet, or the files cannot be written.
    """
    from footplate.sweeps.picture import draw_sweep

    output = sweep.picture if output is None else output
    if output.suffix.lower() != ".png":
        raise FootplateError(f"--output: {output} is no .png, and pictures are drawn as one; write {output.stem}.png")
    ranked = sweep.ranked()
    if ranked[0].score is None:
        raise FootplateError(
            f"{sweep.argument}: no trial has a score yet; wait for the first evaluation, "
            "or see its log.txt for what went wrong"
        )
    found = _importances(sweep, ranked)
    try:
        write_results(sweep, ranked, found)
        draw_sweep(sweep, ranked, found, output)
    except OSError as error:
        raise FootplateError(
            f"{output.parent}: cannot be written ({error.strerror}); make room, or make it writable"
        ) from error
    print_table(*results_table(sweep, ranked[:MOST_ROWS]))
    if len(ranked) > MOST_ROWS:
        print(f"and {len(ranked) - MOST_ROWS} more in sweep.csv")
    for line in importance_lines(sweep, found):
        print(line)
    print(f"{summary(sweep, ranked)}\n  table       {relative(sweep.path)}/sweep.csv, sweep.json")
    print(f"  picture     {relative(output.absolute())}")


def results_table(sweep: SweepFolder, ranked: Sequence[Standing]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: rank, trial, score, state, updates, time, and the settings."""
    labels = short_keys(list(sweep.sweep.space))
    columns = ["rank", "trial", sweep.best.metric, "state", "updates", "time", *labels.values()]
    rows = [
        [
            str(rank) if standing.score is not None else "",
            str(standing.trial.number),
            "" if standing.score is None else number(standing.score),
            STATES.get(standing.state, standing.state),
            f"{standing.update:,}",
            duration(standing.seconds),
            *(shown_setting(value) for value in standing.trial.settings.values()),
        ]
        for rank, standing in enumerate(ranked, start=1)
    ]
    return columns, rows


def importance_lines(sweep: SweepFolder, found: Mapping[str, Importance]) -> list[str]:
    """Which settings made a difference, in words."""
    if not found:
        return []
    labels = short_keys(list(sweep.sweep.space))
    shares = sorted(found.items(), key=lambda item: -item[1].share)
    told = ", ".join(
        f"{labels[key]} {importance.share:.0%}{'' if importance.is_beyond_chance else ' (no more than chance)'}"
        for key, importance in shares
    )
    return [f"differences explained by one setting alone: {told}"]


def summary(sweep: SweepFolder, ranked: Sequence[Standing]) -> str:
    """How many trials became what, in a line."""
    counts: dict[str, int] = {}
    for standing in ranked:
        counts[standing.state] = counts.get(standing.state, 0) + 1
    told = ", ".join(f"{count} {STATES.get(state, state)}" for state, count in counts.items())
    best = ranked[0]
    leader = f"; best {best.folder.argument}" if best.score is not None else ""
    return f"{sweep.name}: {len(ranked)} trials, {told}{leader}"


def write_results(sweep: SweepFolder, ranked: Sequence[Standing], found: Mapping[str, Importance]) -> None:
    """`sweep.json` and `sweep.csv`: every trial, best first. Raises OSError."""
    rows = [_row(rank, standing) for rank, standing in enumerate(ranked, start=1)]
    best = sweep.best
    content = {
        "sweep": sweep.name,
        "recipe": sweep.sweep.recipe,
        "metric": best.metric,
        "better": best.better,
        "importance": {
            key: {"share": importance.share, "by_chance": importance.by_chance} for key, importance in found.items()
        },
        "trials": rows,
    }
    (sweep.path / "sweep.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with (sweep.path / "sweep.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(key for key in rows[0] if key != "settings"), *sweep.sweep.space])
        for row in rows:
            settings = [
                value if isinstance(value, int | float | str) else json.dumps(value)
                for value in row["settings"].values()
            ]
            writer.writerow([*(value for key, value in row.items() if key != "settings"), *settings])


def require_success(sweep: SweepFolder) -> None:
    """Raise TrainingError where all trials are over and none has a score: a line with the first reason."""
    standings = sweep.standings()
    if any(standing.score is not None or standing.state not in ("failed", "finished") for standing in standings):
        return
    first = next((standing for standing in standings if standing.state == "failed"), standings[0])
    why = " ".join(first.problem.split()) or f"{sweep.best.metric} was never a number"
    raise TrainingError(
        f"{sweep.name}: none of {len(standings)} trials has a score; {first.trial.name}: {why}; "
        f"see {relative(first.folder.log)}"
    )


def _row(rank: int, standing: Standing) -> dict[str, Any]:
    return {
        "rank": rank if standing.score is not None else None,
        "trial": standing.trial.number,
        "run": standing.trial.name,
        "score": standing.score,
        "state": standing.state,
        "updates": standing.update,
        "seconds": round(standing.seconds, 3),
        "problem": standing.problem or None,
        "settings": dict(standing.trial.settings),
    }


def _importances(sweep: SweepFolder, ranked: Sequence[Standing]) -> dict[str, Importance]:
    scored = [standing for standing in ranked if standing.score is not None]
    settings = {key: [standing.trial.settings[key] for standing in scored] for key in sweep.sweep.space}
    return importances(settings, [standing.score for standing in scored if standing.score is not None])
