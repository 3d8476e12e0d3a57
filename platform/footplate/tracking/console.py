"""The screen: a live display at a terminal, plain lines at a readable pace anywhere else."""

import errno
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

import rich.console
from rich.box import HORIZONTALS, SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from footplate.step import Activity, Medium, Table
from footplate.tracking.debugging import StepAside
from footplate.tracking.log_file import medium_lines, medium_title
from footplate.tracking.progress import Progress, duration

SECONDS_BETWEEN_LINES = 10.0
REFRESHES_PER_SECOND = 2
BAR_WIDTH = 30


class _Screen(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Whoever read along has gone: an error of this tracker, where rich would end the whole program."""
        raise BrokenPipeError(errno.EPIPE, "nobody reads it any more")


class Console:
    """A tracker for people. It is called in the training thread and only takes notes there; rich draws in its own.

    At a terminal, below whatever else is printed:

        cartpole-paac ━━━━━━━━━━━━━━╸━━━━━━━━━━ 1,234/2,000  0:08 left  61,204 frames/s  95.6 updates/s
        rollout/return 187.2  train/loss 0.0213  eval/return 200  train/entropy 0.61
        evaluating ━━━━━━━╸━━━━━━━━━━━━━━━━━━━━ 120/1,000

    Evaluations, messages and sample tables stay above it. Elsewhere (a pipe, a file, a job's log) a line is printed
    every 10 seconds and for each evaluation. `first` names the metrics to be shown before all others.
    """

    def __init__(
        self,
        total_updates: int,
        title: str = "",
        *,
        first: Sequence[str] = (),
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = title
        self._progress = Progress(total_updates, first, clock)
        self._activity: Activity | None = None
        self._clock = clock
        self._opened = clock()
        self._line_due = clock()
        self._activity_due = clock()
        self._line_shows = 0
        stream = stream or sys.stdout
        # force_jupyter: a notebook gets plain lines, not a widget.
        self._screen = _Screen(file=stream, highlight=False, force_jupyter=False)
        # Asked of the stream itself: rich takes FORCE_COLOR for a terminal.
        self._is_terminal = stream.isatty() and not self._screen.is_dumb_terminal
        self._live: Live | None = None
        self._step_aside = StepAside(self._hide)
        self._step_aside.install()
        self._show()

    def row(self, row: Mapping[str, float]) -> None:
        """Note the row; print a line where one is due."""
        self._activity = None
        self._progress.observe(row)
        self._show()
        evaluation = self._progress.evaluation(row)
        if self._live is None and self._clock() >= self._line_due:
            self._progress_line()
        if evaluation:
            self._line([f"update {self._progress.count()}", *evaluation])

    def media(self, update: int, media: Mapping[str, Medium]) -> None:
        """Print tables, and say where the rest is."""
        for name, medium in media.items():
            self._print(Text(medium_title(update, name, medium), style="bold"))
            if isinstance(medium, Table) and self._is_terminal:
                self._print(_grid(medium))
            else:
                self._print(*medium_lines(medium))

    def message(self, text: str) -> None:
        """Print the message."""
        self._print(text)

    def activity(self, activity: Activity) -> None:
        """Note what goes on; print a line where one is due and this has gone on for long, but is not done."""
        if self._activity is None or activity.name != self._activity.name:
            self._activity_due = self._clock() + SECONDS_BETWEEN_LINES
        self._activity = activity
        self._show()
        is_due = self._clock() >= max(self._line_due, self._activity_due)
        if self._live is None and is_due and activity.done < activity.total:
            self._line([f"{activity.name} {activity.done:,}/{activity.total:,}"])

    def close(self, outcome: str) -> None:
        """Leave the last figures on the screen, and the screen."""
        self._hide()
        if self._line_shows < self._progress.update:
            self._progress_line(is_last=True)
        self._step_aside.uninstall()

    def _show(self) -> None:
        # While a debugger steps through the program the display stays away: it would draw over the prompt.
        if self._live is None and self._is_terminal and sys.gettrace() is None:
            self._live = Live(
                get_renderable=self._display,
                console=self._screen,
                refresh_per_second=REFRESHES_PER_SECOND,
                transient=True,
            )
            self._live.start()

    def _hide(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _display(self) -> RenderableType:
        progress, activity = self._progress, self._activity
        lines: list[RenderableType] = []
        if progress.update:
            facts = [progress.count(), progress.left(), *progress.rates()]
            lines.append(self._bar(self._title, progress.update, progress.updates, facts))
            lines.append(Text(_fitting(progress.metrics(), self._screen.width), no_wrap=True))
        elif activity is None:
            facts = [progress.count(), f"starting, {duration(self._clock() - self._opened)}"]
            lines.append(self._bar(self._title, 0, progress.updates, facts))
        if activity is not None:
            lines.append(
                self._bar(activity.name, activity.done, activity.total, [f"{activity.done:,}/{activity.total:,}"])
            )
        return Group(*lines)

    def _bar(self, name: str, done: int, total: int, facts: list[str]) -> RenderableType:
        width = self._screen.width
        name = name if len(name) <= width // 4 else name[: width // 4 - 1] + "…"
        text = _fitting(facts, width - len(name) - 2 - BAR_WIDTH // 2)
        grid = Grid.grid(padding=(0, 1, 0, 0))
        bar_width = max(1, min(BAR_WIDTH, width - len(name) - len(text) - 3))
        grid.add_row(
            Text(name, style="bold", no_wrap=True),
            ProgressBar(max(total, 1), done, width=bar_width),
            Text(text, no_wrap=True),
        )
        return grid

    def _progress_line(self, *, is_last: bool = False) -> None:
        progress = self._progress
        # Evaluations have lines of their own, under their update.
        facts = [*progress.metrics(evaluations=False), *progress.rates(), "" if is_last else progress.left()]
        self._line([f"update {progress.count()}", *facts])

    def _line(self, facts: list[str]) -> None:
        self._line_due = self._clock() + SECONDS_BETWEEN_LINES
        self._line_shows = self._progress.update
        facts = [fact for fact in facts if fact]
        # Elsewhere than on a terminal a line stays a line, for grep.
        self._print(*(_folded(facts, self._screen.width) if self._is_terminal else ["  ".join(facts)]))

    def _print(self, *things: RenderableType) -> None:
        for thing in things:
            # soft_wrap: a path or a command that is copied from the screen should be one line.
            self._screen.print(thing, markup=False, emoji=False, soft_wrap=isinstance(thing, str | Text))


def _fitting(facts: list[str], width: int) -> str:
    """As many facts as fit, two blanks between."""
    text = ""
    for fact in facts:
        if fact and len(text) + 2 + len(fact) <= width:
            text += ("  " if text else "") + fact
    return text


def _folded(facts: list[str], width: int) -> list[str]:
    """All facts, in as many lines as that takes."""
    lines = facts[:1]
    for fact in facts[1:]:
        if len(lines[-1]) + 2 + len(fact) <= width:
            lines[-1] += f"  {fact}"
        else:
            lines.append(f"  {fact}")
    return lines


def _grid(table: Table) -> RenderableType:
    grid = Grid(*table.columns, show_lines=not table.aligned, box=SIMPLE_HEAD if table.aligned else HORIZONTALS)
    for row in table.rows:
        grid.add_row(*map(Text, row))
    return grid
