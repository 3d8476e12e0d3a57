"""log.txt and samples/: what a run said and showed, kept as files that need no program to be read."""

import json
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from footplate.step import Activity, Medium, Picture, Table, Video

STAMP = "%Y-%m-%d %H:%M:%S"
_STAMP_PATTERN = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ?")


class LogFile:
    """A tracker that appends messages and tables to log.txt, each line with its time; opened anew for each message."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_closed = False
        self._lock = threading.Lock()

    def row(self, row: Mapping[str, float]) -> None:
        """Nothing: metrics.jsonl holds it."""

    def media(self, update: int, media: Mapping[str, Medium]) -> None:
        """Tables as text; of pictures and videos, the name."""
        for name, medium in media.items():
            self.message("\n".join([medium_title(update, name, medium), *medium_lines(medium)]))

    def message(self, text: str) -> None:
        """The lines of a message."""
        stamp = time.strftime(STAMP)
        lines = "".join(f"{stamp} {line}".rstrip() + "\n" for line in text.splitlines() or [""])
        with self._lock:
            if not self._is_closed:  # a tracker that was not waited for may still speak
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(lines)

    def activity(self, activity: Activity) -> None:
        """Nothing: status.json holds it."""

    def close(self, outcome: str) -> None:
        """Write the last line."""
        self.message(outcome)
        with self._lock:
            self._is_closed = True


class SampleFiles:
    """A tracker that keeps tables as JSON and pictures as PNG, one file each, by update and name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def row(self, row: Mapping[str, float]) -> None:
        """Nothing."""

    def media(self, update: int, media: Mapping[str, Medium]) -> None:
        """Write `<update>-<name>.json` and `.png`; a video is a file already."""
        self.pictures(update, media)
        for name, medium in media.items():
            path = self._place(update, name)
            if isinstance(medium, Table):
                table = {"columns": list(medium.columns), "rows": [list(row) for row in medium.rows]}
                path.with_name(f"{path.name}.json").write_text(
                    json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
                )

    def pictures(self, update: int, media: Mapping[str, Medium]) -> None:
        """Only those."""
        for name, medium in media.items():
            if isinstance(medium, Picture):
                from matplotlib.image import imsave

                path = self._place(update, name)
                imsave(path.with_name(f"{path.name}.png"), medium.pixels)

    def _place(self, update: int, name: str) -> Path:
        self._folder.mkdir(exist_ok=True)
        return self._folder / f"{update:06d}-{name.replace('/', '-')}"

    def message(self, text: str) -> None:
        """Nothing."""

    def activity(self, activity: Activity) -> None:
        """Nothing."""

    def close(self, outcome: str) -> None:
        """Nothing is open."""


def without_stamp(line: str) -> str:
    """A line of log.txt without its time, if it has one.

    >>> without_stamp("2026-01-31 12:00:00   indented"), without_stamp("from elsewhere")
    ('  indented', 'from elsewhere')
    """
    return _STAMP_PATTERN.sub("", line)


def medium_title(update: int, name: str, medium: Medium) -> str:
    """The line that announces a medium."""
    if isinstance(medium, Video):
        return f"{name} after update {update:,}: {medium.path}"
    return f"{name} after update {update:,}" + (": a picture" if isinstance(medium, Picture) else "")


def medium_lines(medium: Medium) -> list[str]:
    """A table as text, one cell a line under the number of its row, or a row a line; nothing for the other media.

    >>> medium_lines(Table(("source", "output"), [("run", "RUN")]))
    ['  1 source: run', '    output: RUN']
    >>> medium_lines(Table(("words", "bleu"), [("1-4", "41.02")], aligned=True))
    ['  words  bleu', '  1-4    41.02']
    """
    if not isinstance(medium, Table):
        return []
    if medium.aligned:
        lines = [medium.columns, *medium.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return [
            "".join(f"  {cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
    width = max((len(column) for column in medium.columns), default=0) + 1
    return [
        f"{str(number) if position == 0 else '':>3} {column + ':':<{width}} {cell}"
        for number, row in enumerate(medium.rows, start=1)
        for position, (column, cell) in enumerate(zip(medium.columns, row, strict=True))
    ]
