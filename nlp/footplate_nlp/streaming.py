"""Reading lines as they come: many at once where they come fast, at once where they come one by one."""

import codecs
import io
import time
from collections.abc import Iterator
from select import select
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from footplate_nlp.corpora import decode_line

BYTES_AT_ONCE = 1 << 16


def line_blocks(file: io.BufferedIOBase, lines_at_once: int, patience_seconds: float = 0.1) -> Iterator[list[bytes]]:
    """The file's lines in blocks of at most `lines_at_once`; only a line feed ends a line.

    A block that is not full goes out when, since its first line, `patience_seconds` have passed and nothing more has
    come: a keyboard or a slow pipe does not wait for hundreds of lines. The last line may lack its line feed.
    """
    block: list[bytes] = []
    pieces: list[bytes] = []  # of a line that has not ended; joined once, however long it is
    due = 0.0
    while True:
        if block and not _comes_before(file, due):
            yield block
            block = []
        chunk = file.read1(BYTES_AT_ONCE)
        if not chunk:
            break
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            block.append(b"".join([*pieces, line]))
            pieces = []
            if len(block) == 1:
                due = time.monotonic() + patience_seconds
            if len(block) == lines_at_once:
                yield block
                block = []
        if rest:
            pieces.append(rest)
    if pieces:
        block.append(b"".join(pieces))
    if block:
        yield block


def text_blocks(file: io.BufferedIOBase, lines_at_once: int, name: str) -> Iterator[list[str]]:
    """The same as text, without a byte-order mark; `name` says what is read.

    FootplateError, with the line's number, where that is not UTF-8.
    """
    number = 0
    for block in line_blocks(file, lines_at_once):
        if number == 0:
            block[0] = block[0].removeprefix(codecs.BOM_UTF8)
        yield [decode_line(line, f"{name}:{number + index}") for index, line in enumerate(block, start=1)]
        number += len(block)


def _comes_before(file: io.BufferedIOBase, due: float) -> bool:
    """Whether there is something to read, the end included, before it is `due`; what is no stream always has it."""
    try:
        descriptor = file.fileno()
    except io.UnsupportedOperation:
        return True
    return bool(select([descriptor], [], [], max(0.0, due - time.monotonic()))[0])


class LineCounter:
    """One line on a terminal, gone at the end: how many lines are done, and how many a second."""

    def __init__(self, console: Console, shown: bool) -> None:
        columns = SpinnerColumn(), TextColumn("{task.completed:,.0f} lines"), TextColumn("{task.fields[rate]}")
        self._progress = Progress(*columns, console=console, transient=True, disable=not shown)
        self._task = self._progress.add_task("lines", total=None, rate="")
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, lines: int) -> None:
        """So many more are done."""
        done = self._progress.tasks[0].completed + lines
        rate = done / max(time.monotonic() - self._began, 1e-9)
        self._progress.update(self._task, completed=done, rate=f"{rate:,.1f} lines/s")
