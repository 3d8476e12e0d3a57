"""`make demo`: it says which Python it needs, shows what it promises, and ends where a command of it fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parent.parent / "benchmarks" / "demo.sh"


def demo(folder: Path, instead_of_translate: str = "") -> subprocess.CompletedProcess[str]:
    """The demo in a folder whose `.venv/bin/footplate` is the program under test, but for one command where asked."""
    program = folder / ".venv" / "bin" / "footplate"
    program.parent.mkdir(parents=True, exist_ok=True)
    other = f'[ "$1" = translate ] && {instead_of_translate}\n' if instead_of_translate else ""
    program.write_text(f'#!/bin/sh\n{other}exec {sys.executable} -m footplate "$@"\n')
    program.chmod(0o755)
    return subprocess.run(["sh", str(DEMO), "--debug"], cwd=folder, capture_output=True, text=True, timeout=500)


@pytest.mark.ray
@pytest.mark.slow
def test_the_demo_shows_each_sentence_above_its_translation_and_keeps_what_an_earlier_one_trained(
    tmp_path: Path,
) -> None:
    earlier = tmp_path / "runs" / "demo"
    earlier.mkdir(parents=True)
    ended = demo(tmp_path)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    for sentence in ("jump twice", "walk around left and run", "look opposite right thrice after turn left"):
        assert lines[lines.index(f"     {sentence}") + 1].startswith("       -> ")
    assert "  footplate show translator --runs runs/demo-2        the curves, as a picture" in lines
    assert list(earlier.iterdir()) == []
    assert {path.name for path in (tmp_path / "runs" / "demo-2").iterdir()} >= {"translator", "agent"}


def test_a_python_that_is_too_old_or_broken_is_told_in_a_line(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    make = ["make", "-f", str(DEMO.parents[1] / "Makefile"), "demo", "PYTHON=false"]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # as a user has it
    ended = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, env=outside)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.splitlines()[0] == "Python 3.11 or newer is needed; make demo PYTHON=python3.12"


@pytest.mark.ray
@pytest.mark.slow
def test_the_demo_fails_where_it_cannot_translate(tmp_path: Path) -> None:
    ended = demo(tmp_path, instead_of_translate="exit 3")
    assert ended.returncode == 3
    assert "2/2" not in ended.stdout
