"""Killed by SIGKILL at any moment, a run has lost nothing that was saved, and ends with the same bytes once resumed."""

import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kills import Figures, Moment, Victim, check_equal, kill_all_of

from footplate.checkpoint import CheckpointStore

WRITER = Path(__file__).with_name("store_writer.py")
TINY = {
    "copy-transformer": [
        "updates=400",
        "batch_tokens=64",
        "model.width=16",
        "model.feed_forward_width=16",
        "schedule.kind=plateau",
        "evaluate.every_updates=50",
        "evaluate.sentences=8",
        "save.every_updates=7",
    ],
    "catch-paac": [
        "steps=16000",
        "environments=4",
        "reset_every_updates=10",
        "evaluate.every_updates=100",
        "evaluate.episodes=4",
        "save.every_updates=10",
    ],
}


@pytest.mark.slow
def test_the_store_survives_twenty_kills(tmp_path: Path) -> None:
    chance = random.Random(1)
    writer = runpy.run_path(str(WRITER), run_name="writer")
    interrupted = 0
    for _ in range(20):
        with subprocess.Popen([sys.executable, WRITER, tmp_path], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            promised = int(process.stdout.readline())
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            promised = int([str(promised), *process.stdout.read().split()][-1])
        assert process.returncode == -signal.SIGKILL  # it ends by itself where it finds torch imported
        interrupted += any(tmp_path.glob(".writing-*"))

        reports: list[str] = []
        store = CheckpointStore(tmp_path, reports.append)
        newest = store.newest()
        assert newest is not None
        assert newest.update >= promised
        for name in newest.manifest["files"]:
            assert (newest.folder / name).read_bytes() == writer["content"](newest.update, name)
        store.save_files(newest.update + 1, writer["files"](newest.update + 1))
        store.close()
        assert store.updates()[-1] == newest.update + 1
        assert reports == []
    assert interrupted >= 5


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TINY)
def test_a_run_survives_five_kills_and_ends_with_the_same_bytes_and_rows(recipe: str, tmp_path: Path) -> None:
    chance, figures = random.Random(2), Figures()
    overrides = ["threads=1", "track.every_updates=1", *TINY[recipe]]
    through = Victim(recipe, overrides, tmp_path, "through", Figures()).let_it_end()
    killed = Victim(recipe, overrides, tmp_path, "killed", figures)
    moments: list[Moment] = ["write", "training", "start", "write", "training"]
    assert [killed.live_and_die(moment, chance, kill_all_of) for moment in moments] == [True] * 5
    check_equal(through, killed.let_it_end())
    assert {path.name for path in killed.folder.path.iterdir()} == {path.name for path in through.path.iterdir()}
