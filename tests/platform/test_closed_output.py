"""Whoever reads along may leave, and the disk that the output goes to may be full: training does not care."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from footplate.folder import RunFolder
from footplate.tracking.metrics_file import read_rows

TRAIN = ["train", "copy-transformer", "--name", "run", "updates=30", "threads=1", "track.every_updates=1"]
SMALL = ["batch_tokens=64", "model.width=16", "model.feed_forward_width=16", "evaluate.every_updates=5"]
COMMAND = [sys.executable, "-m", "footplate", *TRAIN, *SMALL, "evaluate.sentences=4"]


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_its_output(tmp_path: Path) -> None:
    with subprocess.Popen(COMMAND, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (0, "")
    folder = RunFolder(tmp_path / "runs" / "run")
    assert folder.read_status()["state"] == "finished"
    assert [row["update"] for row in read_rows(folder.metrics)] == list(range(1, 31))
    assert "console: BrokenPipeError: [Errno 32] nobody reads it any more; this tracker is switched off" in (
        folder.log.read_text()
    )


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_run_goes_on_when_the_disk_of_its_output_is_full(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(COMMAND, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert RunFolder(tmp_path / "runs" / "run").read_status()["state"] == "finished"


@pytest.mark.slow
def test_translate_stops_quietly_when_nobody_reads_on(tmp_path: Path) -> None:
    subprocess.run(COMMAND, cwd=tmp_path, stdout=subprocess.DEVNULL, check=True)
    command = [sys.executable, "-m", "footplate", "translate", "run"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, said = process.communicate(b"a b c\n" * 3)
    assert (process.returncode, said.decode()) == (1, "")  # typer's way to end at a closed pipe
