"""Ctrl-C and SIGTERM save and end; the second one abandons; either way the run goes on to the same bytes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kills import check_equal, last_update

from footplate import record
from footplate.checkpoint import CheckpointStore
from footplate.folder import RunFolder, create_run
from footplate.job import Job, load_job
from footplate.launch import launch

COPY = [
    "threads=1",
    "track.every_updates=1",
    "updates=60",
    "batch_tokens=64",
    "model.width=16",
    "model.feed_forward_width=16",
    "evaluate.every_updates=30",
    "evaluate.sentences=100",
    "save.every_updates=6",
]
CATCH = [
    "threads=1",
    "track.every_updates=1",
    "steps=8000",
    "environments=4",
    "reset_every_updates=25",
    "evaluate.every_updates=100",
    "evaluate.episodes=20",
    "save.every_updates=25",
]
JOBS = {"copy-transformer": COPY, "catch-paac": CATCH}


@contextmanager
def signalled(number: signal.Signals, when: Callable[[], bool]) -> Iterator[None]:
    """Send this process a signal as soon as something is so."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if when():
                os.kill(os.getpid(), number)
                return
            time.sleep(0.0005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def folder_of(tmp_path: Path, recipe: str, name: str) -> tuple[Job, RunFolder]:
    return load_job(recipe, JOBS[recipe]), create_run(tmp_path, name, recipe)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", JOBS)
def test_a_signal_saves_and_ends_whatever_goes_on_and_the_run_goes_on_to_the_same_bytes(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "SECONDS_BETWEEN_STATUS", 0.0)
    job, through = folder_of(tmp_path, recipe, "through")
    launch(job, through)
    job, folder = folder_of(tmp_path, recipe, "stopped")
    moments: list[tuple[signal.Signals, Callable[[], bool]]] = [
        (signal.SIGTERM, lambda: last_update(folder) >= 8),
        (signal.SIGINT, lambda: any(folder.checkpoints.glob(".writing-*"))),
        (signal.SIGINT, lambda: bool(folder.read_status().get("activity"))),
    ]
    for number, when in moments:
        with signalled(number, when):
            launch(job, folder)
        status = folder.read_status()
        assert (status["state"], status["reason"]) == ("stopped", {2: "Ctrl-C", 15: "SIGTERM"}[number])
        saved = CheckpointStore(folder.checkpoints).updates()
        goes_back = f"`footplate resume {folder.path}` goes back to update {saved[-1]}" if saved else "starts over"
        last_line = folder.log.read_text().splitlines()[-2]
        assert (saved[-1:] == [status["update"]]) != ("this task cannot be saved here" in last_line)
        assert saved[-1:] == [status["update"]] or last_line.endswith(goes_back)
    # The signal may come just after the evaluation that it waited for; then the run ends one update later or so.
    first_evaluation = {"copy-transformer": 30, "catch-paac": 100}[recipe]
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [row["update"] for row in rows if any(name.startswith("eval/") for name in row)] == [first_evaluation]
    assert status["update"] >= first_evaluation
    launch(job, folder)
    check_equal(through, folder)


@pytest.mark.slow
@pytest.mark.parametrize(("signals", "code"), [(1, 0), (2, 130)])
def test_one_ctrl_c_finishes_an_evaluation_and_a_second_one_abandons_it(
    tmp_path: Path, signals: int, code: int
) -> None:
    folder, output = RunFolder(tmp_path / "run"), tmp_path / "output.txt"
    overrides = [*COPY, "evaluate.every_updates=20", "evaluate.sentences=2000", "save.every_updates=10"]
    command = [sys.executable, "-m", "footplate", "train", "copy-transformer", *overrides, "--name", "run", "--runs"]
    with output.open("wb") as file, subprocess.Popen([*command, tmp_path], stdout=file, stderr=file) as process:
        while last_update(folder) < 19:
            assert process.poll() is None, output.read_text()
            time.sleep(0.001)
        for number in range(signals):
            process.send_signal(signal.SIGINT)
            while number + 1 < signals and "again abandons it" not in output.read_text():
                time.sleep(0.001)
    said = output.read_text()
    assert process.returncode == code, said
    assert "\nCtrl-C: ending after this update or evaluation, saved where that is possible; again abandons it\n" in said
    assert "Traceback" not in said
    assert folder.read_status()["state"] == "stopped"
    # The signal may come before update 19 has been handed on; then the run ends there, without evaluation.
    assert CheckpointStore(folder.checkpoints).updates()[-1] in ((19, 20) if signals == 1 else (10,))


HANGING_TASK = """
import time
from footplate.section import Section
from footplate.step import Step

class Config(Section):
    updates: int = 1000

def train(config, context):
    try:
        for update in range(1, config.updates + 1):
            time.sleep(0.01)
            yield Step(update, {"train/loss": 1.0})
            while update == 5:
                time.sleep(0.01)
    finally:
        print("closing", flush=True)
        time.sleep(300)
"""


def test_a_third_ctrl_c_leaves_at_once_what_does_not_end(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text(HANGING_TASK)
    (tmp_path / "hanging.yaml").write_text(f"task: {tmp_path / 'hanging.py'}\n")
    output = tmp_path / "output.txt"
    command = [sys.executable, "-m", "footplate", "train", "hanging.yaml", "--runs", "runs"]
    with (
        output.open("wb") as file,
        subprocess.Popen(command, stdout=file, stderr=file, cwd=tmp_path) as process,
    ):
        moments: list[Callable[[], bool]] = [
            lambda: last_update(RunFolder(tmp_path / "runs" / "hanging")) >= 4,
            lambda: "again abandons it" in output.read_text(),
            lambda: "closing" in output.read_text(),
        ]
        for reached in moments:
            while not reached():
                assert process.poll() is None, output.read_text()
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert "Traceback" not in output.read_text()


PREPARING_TASK = """
import time
from footplate.section import Section
from footplate.step import Activity, Step

class Config(Section):
    updates: int = 1000

def train(config, context):
    yield Step(0, activity=Activity("prepare", 1, 2))
    print("preparing", flush=True)
    time.sleep(300)
    yield Step(1, {"train/loss": 1.0})
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_first_update_one_signal_ends_a_run_at_once(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(PREPARING_TASK)
    (tmp_path / "slow.yaml").write_text(f"task: {tmp_path / 'slow.py'}\n")
    output = tmp_path / "output.txt"
    command = [sys.executable, "-m", "footplate", "train", "slow.yaml", "--runs", "runs"]
    with output.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, cwd=tmp_path) as process:
        while "preparing" not in output.read_text():
            assert process.poll() is None, output.read_text()
            time.sleep(0.01)
        process.send_signal(number)
    assert process.returncode == 130
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert f"\n{name}: no update has been made yet, so there is nothing to save\n" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert RunFolder(tmp_path / "runs" / "slow").read_status()["state"] == "stopped"


HUNG_UP = """
import os, signal, sys
from footplate.interrupts import stop_on_signals

signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1] == "nohup" else signal.SIG_DFL)
with stop_on_signals() as stop_requested:
    os.kill(os.getpid(), signal.SIGHUP)
    print(stop_requested())
"""


def test_ctrl_c_is_heeded_also_by_what_a_script_has_started_in_the_background() -> None:
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    assert subprocess.run([sys.executable, "-c", ignoring + UNHEARD], capture_output=True).returncode == 7


@pytest.mark.parametrize(("how", "heard"), [("terminal", "SIGHUP"), ("nohup", "None")])
def test_a_terminal_that_closes_asks_to_end_unless_that_is_ignored(how: str, heard: str) -> None:
    ended = subprocess.run([sys.executable, "-c", HUNG_UP, how], capture_output=True, text=True, check=True)
    assert ended.stdout == f"{heard}\n"


UNHEARD = """
import os, signal
from footplate.interrupts import say_if_heard, stop_on_signals

with stop_on_signals() as stop_requested:
    os.kill(os.getpid(), signal.SIGINT)
    say_if_heard("the rest of the run is going up")
    os._exit(7 if stop_requested() == "Ctrl-C" else 1)
"""


def test_a_ctrl_c_that_nobody_reads_saves_and_ends_all_the_same() -> None:
    # As with `2>&1 | tee log`: the same Ctrl-C ends tee first.
    read, write = os.pipe()
    os.close(read)
    try:
        assert subprocess.run([sys.executable, "-c", UNHEARD], stdout=write, stderr=write).returncode == 7
    finally:
        os.close(write)
