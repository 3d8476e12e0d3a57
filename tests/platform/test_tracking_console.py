import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from footplate.step import Activity, Table, Video
from footplate.tracking.console import Console
from footplate.tracking.progress import Progress


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def plain_console(total_updates: int) -> Iterator[tuple[Console, io.StringIO, Clock]]:
    stream, clock = io.StringIO(), Clock()
    console = Console(total_updates, "a-run", first=("eval/bleu",), stream=stream, clock=clock)
    yield console, stream, clock
    console.close("finished")


def test_without_a_terminal_a_line_is_printed_every_ten_seconds_and_for_each_evaluation() -> None:
    with plain_console(1000) as (console, stream, clock):
        for update in range(1, 31):
            console.row({"update": update, "train/loss": float(update)} | ({"eval/bleu": 12.5} if update == 18 else {}))
            clock.now += 1
        lines = stream.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "update 1/1,000",
        "update 11/1,000",
        "update 18/1,000",  # the evaluation; the next line ten seconds after it
        "update 28/1,000",
    ]
    assert lines[2] == "update 18/1,000  eval/bleu 12.5"
    assert stream.getvalue().splitlines()[4:] == ["update 30/1,000  train/loss 30"]


def test_an_evaluation_hides_no_training_metrics_that_were_due() -> None:
    with plain_console(5) as (console, stream, _):
        console.row({"update": 5, "train/loss": 2.0, "eval/bleu": 12.5})
    assert stream.getvalue().splitlines() == ["update 5/5  train/loss 2", "update 5/5  eval/bleu 12.5"]


def test_metrics_that_matter_most_come_first_and_rates_and_time_left_last() -> None:
    with plain_console(200) as (console, stream, _):
        work = {"target_tokens": 8192.0, "speed/updates_per_second": 2.0, "speed/target_tokens_per_second": 8192.4}
        console.row({"update": 99, "time/seconds": 10.0})
        console.row(
            {"update": 100, "train/grad_norm": 0.5, "train/loss": 2.34567, "eval/bleu": 20.0, "eval/loss": 3.0, **work}
            | {"time/seconds": 12.0}
        )
    assert stream.getvalue().splitlines()[1:] == ["update 100/200  eval/bleu 20  eval/loss 3"]
    progress = Progress(200, ("eval/bleu",))
    progress.observe({"update": 100, "train/b": 1.0, "train/loss": 2.34567, "eval/bleu": 20.0, "eval/a": 3.0, **work})
    assert progress.metrics() == ["eval/bleu 20", "train/loss 2.346", "eval/a 3", "train/b 1", "target_tokens 8,192"]
    assert progress.rates() == ["8,192 target_tokens/s", "2 updates/s"]


def test_the_time_left_follows_from_the_mean_pace_of_the_runs_own_clock() -> None:
    progress = Progress(100)
    assert progress.seconds_left is None
    progress.observe({"update": 10, "time/seconds": 50.0})
    assert progress.seconds_left is None
    progress.observe({"update": 20, "time/seconds": 80.0})
    assert progress.seconds_left == 80 * 3.0  # 10 updates took 30 seconds, 80 are left
    progress.observe({"update": 30, "time/seconds": 90.0})
    assert progress.seconds_left == 70 * 2.0  # 20 updates took 40
    assert progress.left() == "2:20 left"


def test_a_run_taken_back_to_a_checkpoint_is_timed_anew() -> None:
    progress = Progress(100)
    for update, seconds in ((10, 10.0), (20, 20.0), (11, 11.0)):
        progress.observe({"update": update, "time/seconds": seconds})
    progress.observe({"update": 12, "time/seconds": 16.0})
    assert progress.seconds_left == 88 * 5.0


def test_text_is_printed_as_it_is_whatever_it_contains() -> None:
    path = "/" + "long/" * 40
    with plain_console(10) as (console, stream, _):
        console.message("[/not] :smile: [bold]markup[/bold] 3.5")
        console.message(path)
        console.media(
            3, {"eval/samples": Table(("source", "output"), [("[/a]", ":b:")]), "eval/video": Video(Path("3.mp4"))}
        )
    assert stream.getvalue().splitlines() == [
        "[/not] :smile: [bold]markup[/bold] 3.5",
        path,
        "eval/samples after update 3",
        "  1 source: [/a]",
        "    output: :b:",
        "eval/video after update 3: 3.mp4",
    ]


def test_long_pauses_are_accounted_for() -> None:
    with plain_console(10) as (console, stream, clock):
        for done in range(0, 1001, 50):
            console.activity(Activity("evaluating", done, 1000))
            clock.now += 1
        assert stream.getvalue() == "evaluating 500/1,000\n"


def test_of_short_pauses_nothing_is_said() -> None:
    with plain_console(30) as (console, stream, clock):
        for update in (10, 20, 30):
            clock.now += 60
            for done in (1, 8):
                console.activity(Activity("evaluating", done, 8))
            console.row({"update": update, "eval/bleu": 12.5})
    assert [line for line in stream.getvalue().splitlines() if line.startswith("evaluating")] == []


def test_numbers_that_are_not_finite_are_shown() -> None:
    with plain_console(10) as (console, stream, _):
        console.row({"update": 1, "train/loss": float("nan"), "train/grad_norm": float("inf")})
    assert stream.getvalue() == "update 1/10  train/loss nan  train/grad_norm inf\n"


def test_the_hooks_are_set_back_when_the_console_is_closed() -> None:
    hooks = (sys.breakpointhook, sys.excepthook)
    with plain_console(10):
        assert sys.excepthook is not hooks[1]
        assert sys.breakpointhook is not hooks[0]
    assert (sys.breakpointhook, sys.excepthook) == hooks


def test_a_breakpoint_hook_that_others_have_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "breakpointhook", print)
    with plain_console(10):
        assert sys.breakpointhook is print
    assert sys.breakpointhook is print


PROGRAM = """
import sys, time
from footplate.step import Activity
from footplate.tracking.console import Console

def train(console):
    for update in range(1, 9):
        seen_here = update * 1000
        if update == 3 and "breakpoint" in sys.argv:
            breakpoint()
            after = "first line after the call"
        if update == 6 and "raise" in sys.argv:
            raise RuntimeError("a failing update")
        console.row({"update": update, "train/loss": 1 / update})
        time.sleep(0.1)

console = Console(8, "a-run")
train(console)
console.close("finished")
"""


class Terminal:
    """A program in a pseudo-terminal, and all that it has written."""

    def __init__(self, folder: Path, *arguments: str, columns: int = 100, **environment: str) -> None:
        program = folder / "program.py"  # a debugger shows the lines of a file
        program.write_text(PROGRAM)
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, str(program), *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns), **environment},
            start_new_session=True,
        )
        os.close(slave)
        self.output = ""

    def read_until(self, text: str) -> str:
        """What it writes up to a text that must appear."""
        already = len(self.output)
        deadline = time.monotonic() + 60
        while text not in self.output[already:]:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.output[already:]!r}"
            if not self.read(1.0) and self.process.poll() is not None:
                raise AssertionError(f"{text!r} is not in {self.output[already:]!r}")
        return self.output[already:]

    def read(self, seconds: float) -> str:
        """What it writes next, if it writes within so many seconds."""
        if not select.select([self._master], [], [], seconds)[0]:
            return ""
        try:
            new = os.read(self._master, 65536).decode(errors="replace")
        except OSError:  # the program has ended
            return ""
        self.output += new
        return new

    def type(self, line: str) -> None:
        os.write(self._master, f"{line}\n".encode())

    def end(self) -> int:
        """Read the rest; the exit status."""
        while self.read(10.0):
            pass
        os.close(self._master)
        return self.process.wait(60)


BAR = "━"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def test_breakpoint_stops_in_the_callers_frame_in_a_quiet_terminal_and_the_display_comes_back(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "breakpoint")
    before = terminal.read_until("(Pdb) ")
    assert BAR in before
    assert before.rindex(SHOW_CURSOR) > before.rindex(HIDE_CURSOR)
    assert "-> after = " in before  # the line after breakpoint() in train, not one of ours
    assert terminal.read(1.0) == "", "something draws over the prompt"
    terminal.type("p seen_here")
    assert "3000" in terminal.read_until("(Pdb) ")
    terminal.type("next")
    assert "if update == 6" in terminal.read_until("(Pdb) ")
    terminal.type("continue")
    assert HIDE_CURSOR in terminal.read_until(BAR)
    assert terminal.end() == 0
    assert terminal.output.rstrip().endswith("update 8/8  train/loss 0.125")


def test_the_display_stays_away_while_the_program_is_stepped_through(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "breakpoint")
    terminal.read_until("(Pdb) ")
    stepped = ""
    for _ in range(6):  # past console.row, twice through the loop
        terminal.type("next")
        stepped += terminal.read_until("(Pdb) ")
    assert "time.sleep" in stepped
    assert BAR not in stepped
    terminal.type("continue")
    terminal.read_until(BAR)
    assert terminal.end() == 0


def test_breakpoints_that_are_switched_off_do_nothing(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "breakpoint", PYTHONBREAKPOINT="0")
    assert terminal.end() == 0
    assert "Pdb" not in terminal.output


def test_another_debugger_is_honoured(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "breakpoint", PYTHONBREAKPOINT="builtins.print")
    assert terminal.end() == 0
    assert "Pdb" not in terminal.output
    assert terminal.output.rstrip().endswith("update 8/8  train/loss 0.125")


def test_an_exception_leaves_a_whole_traceback_below_the_display_and_the_cursor_visible(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "raise")
    assert terminal.end() == 1
    display, _, traceback = terminal.output.partition("Traceback (most recent call last)")
    assert BAR in display
    assert display.rindex(SHOW_CURSOR) > display.rindex(HIDE_CURSOR)
    assert traceback.rstrip().endswith("RuntimeError: a failing update")
    assert "\x1b[" not in traceback
    assert BAR not in traceback


def test_the_display_fits_into_a_narrow_terminal(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, columns=24)
    assert terminal.end() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.output)
    drawn = [line for line in re.split(r"[\r\n]+", text) if not line.startswith("update 8/8")]
    assert BAR in text
    assert max(map(len, drawn)) <= 24
