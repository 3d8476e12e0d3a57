"""Letters that the terminal or the locale has no code for: nothing ends for their sake, and files are UTF-8."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LINE_TASK = Path(__file__).with_name("line_task.py")
ASCII_OUTPUT = {"PYTHONIOENCODING": "ascii"}
ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def footplate(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "footplate", *arguments]
    return subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, check=False)


def write_recipe(folder: Path) -> None:
    text = f"task: {LINE_TASK}\nabout: die schräge Linie\nthreads: 1\nupdates: 2\n"
    (folder / "line.yaml").write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_names_that_the_terminal_cannot_show_end_nothing(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    trained = footplate(tmp_path, ASCII_OUTPUT, "train", "line.yaml", "--name", "übung")
    assert (trained.returncode, trained.stderr) == (0, b"")
    assert trained.stdout.splitlines()[-3:-1] == [
        rb"\xfcbung: finished after 2 updates",
        rb"  run folder  runs/\xfcbung",
    ]
    listed = footplate(tmp_path, ASCII_OUTPUT, "runs")
    assert (listed.returncode, listed.stderr) == (0, b"")
    assert rb"\xfcbung" in listed.stdout
    missed = footplate(tmp_path, ASCII_OUTPUT, "resume", "örtlich")
    assert missed.returncode == 2
    assert missed.stderr.startswith(rb"error: \xf6rtlich: no such run under runs")


@pytest.mark.slow
def test_a_recipe_is_kept_as_it_was_whatever_the_locale(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    trained = footplate(tmp_path, ASCII_LOCALE, "train", "line.yaml")
    assert (trained.returncode, trained.stderr) == (0, b"")
    assert "about: die schräge Linie\n" in (tmp_path / "runs" / "line" / "job.yaml").read_text(encoding="utf-8")
    assert footplate(tmp_path, ASCII_LOCALE, "evaluate", "line").returncode == 0
    shown = footplate(tmp_path, ASCII_LOCALE, "show", "line")
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert rb"die schr\xe4ge Linie" in shown.stdout
