"""`footplate show`: a run at a glance, as a summary on the screen and curves in a PNG."""

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from footplate.checkpoint import CheckpointStore
from footplate.document import read_document
from footplate.errors import FootplateError
from footplate.folder import RunFolder, relative
from footplate.tracking.metrics_file import read_rows
from footplate.tracking.progress import duration, number

Rows = Sequence[Mapping[str, float]]


def show(folder: RunFolder, output: Path | None = None) -> Path:
    """Print the summary and draw the curves of a run, whether it is running, killed or over; returns the PNG's path.

    Raises FootplateError where the run has no metrics yet, or the PNG cannot be written.
    """
    from footplate.curves import draw_curves

    if output is None:
        output = folder.path / "curves.png" if folder.url is None else Path(f"{folder.name}-curves.png")
    if output.suffix.lower() != ".png":
        raise FootplateError(f"--output: {output} is no .png, and curves are drawn as one; write {output.stem}.png")
    rows = read_rows(folder.metrics) if folder.metrics.exists() else []
    if not any("/" in name and not name.startswith("time/") for row in rows for name in row):
        raise FootplateError(
            f"{folder.metrics}: has no rows yet; wait for the first update, or see log.txt for what went wrong"
        )
    recipe, status = read_document(folder.job).data, folder.read_status()
    facts = summary(folder, recipe, status, rows)
    title = " - ".join(
        filter(None, (folder.name, str(recipe.get("about") or recipe.get("task", "")), str(status["state"])))
    )
    try:
        draw_curves(rows, output, title=title, total_updates=status.get("updates"))
    except OSError as error:
        raise FootplateError(
            f"{output}: cannot be written ({error.strerror}); choose another path with --output"
        ) from error
    _print(("run", folder.name), [*facts, ("curves", str(relative(output)))])
    _print(("metric", "last", "lowest", "at", "highest", "at"), metrics_table(rows))
    return output


def summary(
    folder: RunFolder, recipe: Mapping[str, Any], status: Mapping[str, Any], rows: Rows
) -> list[tuple[str, str]]:
    """What to know about the run first: pairs of what and how much."""
    last = rows[-1]
    update = int(last["update"])
    total = f" of {status['updates']:,}" if "updates" in status else ""
    facts = [("task", str(recipe.get("task", "?"))), ("about", str(recipe.get("about") or ""))]
    facts += [("state", _state(folder, status)), ("updates", f"{update:,}{total}")]
    facts += [
        (name.replace("_", " "), f"{value:,}") for name, value in last.items() if "/" not in name and name != "update"
    ]
    if math.isfinite(last.get("time/seconds", math.nan)):
        facts.append(("training time", duration(last["time/seconds"])))
    if best := _best(recipe, rows):
        facts.append(("best", best))
    saved = CheckpointStore(folder.checkpoints, print).updates()
    facts.append(("checkpoints", ", ".join(f"{update:,}" for update in saved) or "none"))
    facts.append(("run folder", folder.url or f"{relative(folder.path)} ({_megabytes(_size(folder.path))})"))
    return [(what, how) for what, how in facts if how]


def metrics_table(rows: Rows) -> list[tuple[str, ...]]:
    """For each metric its last value, and its extremes with the updates at which they were reached."""
    names = {name: None for row in rows for name in row if "/" in name and not name.startswith("time/")}
    table: list[tuple[str, ...]] = []
    for name in sorted(names):
        points = [(row[name], int(row["update"])) for row in rows if name in row]
        finite = [point for point in points if math.isfinite(point[0])]
        lowest = min(finite, key=lambda point: point[0], default=None)
        highest = max(finite, key=lambda point: point[0], default=None)
        table.append((name, number(points[-1][0]), *_point(lowest), *_point(highest)))
    return table


def _print(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # Tighter than print_table, so that six columns of numbers and whole names fit into 80 characters; never folded.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for position, column in enumerate(columns):
        table.add_column(
            Text(column), no_wrap=True, overflow="crop", justify="right" if position and len(columns) > 2 else "left"
        )
    for row in rows:
        table.add_row(*map(Text, row))
    needed = sum(max(len(row[column]) for row in [columns, *rows]) + 3 for column in range(len(columns)))
    Console(width=max(Console().width, needed)).print(table)


def _point(point: tuple[float, int] | None) -> tuple[str, str]:
    return ("", "") if point is None else (number(point[0]), f"{point[1]:,}")


def _state(folder: RunFolder, status: Mapping[str, Any]) -> str:
    state = str(status["state"])
    if error := status.get("error"):
        return f"{state}: {error}"
    if reason := status.get("reason"):
        return f"{state}: {reason}"
    return f"killed; `footplate resume {folder.argument}` goes on" if state == "killed" else state


def _best(recipe: Mapping[str, Any], rows: Rows) -> str | None:
    best = recipe.get("best")
    if not isinstance(best, Mapping) or "metric" not in best:
        return None
    sign = -1.0 if best.get("better") == "lower" else 1.0
    metric = str(best["metric"])
    reached = [(row[metric], int(row["update"])) for row in rows if metric in row and math.isfinite(row[metric])]
    if not reached:
        return f"no {metric} yet"
    value, update = max(reached, key=lambda point: (sign * point[0], point[1]))  # of equals the newest, as elsewhere
    return f"{metric} {number(value)} at update {update:,}"


def _size(folder: Path) -> int:
    """The bytes of all files below; a run that goes on deletes some while they are counted."""
    size = 0
    for place, _, names in os.walk(folder):  # passes over a folder that has just gone, as `rglob` does not
        for name in names:
            with suppress(OSError):
                size += Path(place, name).stat().st_size
    return size


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
