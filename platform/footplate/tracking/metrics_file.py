"""metrics.jsonl: the truth about a run, one JSON object a line, written at once.

Floats keep every digit. What JSON has no number for is written as the strings "NaN", "Infinity" and "-Infinity", which
`float` reads, so that every line is JSON to every reader and a diverged loss is still told from a missing one.
"""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from footplate.errors import FootplateError, TrainingError
from footplate.segments import fsync
from footplate.step import Activity, Medium

MEASURED = ("speed/", "time/", "system/")
"""Names that begin so are measured, and differ each time a run is made; all other numbers are computed."""


class MetricsFile:
    """A tracker that appends each row to a file before it returns: a process killed later loses none of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def truncate_after(self, update: int) -> None:
        """Cut the rows of later updates, and a last line that was torn off; the file is replaced as a whole."""
        written = self._path.read_bytes()
        lines = []
        for line, row in _lines(self._path, written):
            if row["update"] <= update:
                lines.append(line)
            if row["update"] >= update:
                break  # what comes later goes, damaged or not
        kept = b"".join(lines)
        if kept == written:
            return
        beside = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        try:
            with beside.open("wb") as file:
                file.write(kept)
                file.flush()
                os.fsync(file.fileno())
            self._file.close()
            beside.replace(self._path)
            fsync(self._path.parent)
        except OSError as error:
            raise self._unwritable(error) from error
        self._open()

    def row(self, row: Mapping[str, float]) -> None:
        """Append the row. Raises TrainingError where that fails: a run without its record is not worth continuing."""
        line = _as_line(row)
        try:
            # One unbuffered write a line: what the kernel has, a killed process cannot lose. A disk that is about to be
            # full takes a part of it and complains only of the rest.
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise self._unwritable(error) from error

    def media(self, update: int, media: Mapping[str, Medium]) -> None:
        """Nothing: files of their own hold them."""

    def message(self, text: str) -> None:
        """Nothing: log.txt holds them."""

    def activity(self, activity: Activity) -> None:
        """Nothing: status.json holds it."""

    def close(self, outcome: str) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> None:
        try:
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> TrainingError:
        resume = f"footplate resume {self._path.parent}"
        return TrainingError(f"{self._path}: cannot be written ({error.strerror}); mend that, then `{resume}`")


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl, also while it is being written: a last line without its end is left out.

    Raises FootplateError where a line in between is damaged.
    """
    try:
        written = path.read_bytes()
    except (PermissionError, IsADirectoryError) as error:
        raise FootplateError(f"{path}: cannot be read ({error.strerror}); make it readable") from error
    return [row for _, row in _lines(path, written)]


def read_row(line: bytes) -> dict[str, float]:
    """One row from its line. Raises ValueError where it is none.

    >>> read_row(b'{"update": 3, "train/loss": "NaN"}')
    {'update': 3, 'train/loss': nan}
    """
    row = json.loads(line)
    if not isinstance(row, dict) or type(row.get("update")) is not int:
        raise ValueError("not a row")
    if not all(isinstance(value, int | float | str) for value in row.values()):
        raise ValueError("not all of it are numbers")
    numbers = {name: float(value) if isinstance(value, str) else value for name, value in row.items()}
    if any(type(value) is int and abs(value) > sys.float_info.max for value in numbers.values()):
        raise ValueError("a number that nothing can be computed with")
    return numbers


def _as_line(row: Mapping[str, float]) -> bytes:
    try:
        text = json.dumps(row, allow_nan=False)
    except ValueError:  # a number that JSON has no name for
        text = json.dumps({name: _as_json(value) for name, value in row.items()}, allow_nan=False)
    return f"{text}\n".encode()


def _as_json(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _lines(path: Path, written: bytes) -> Iterator[tuple[bytes, dict[str, float]]]:
    for number, line in enumerate(written.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            return
        try:
            yield line, read_row(line)
        except (ValueError, RecursionError) as error:
            raise FootplateError(f"{path}:{number}: is damaged; delete this line to use the rest") from error
