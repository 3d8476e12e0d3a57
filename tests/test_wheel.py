"""The built wheel trains elsewhere: recipes, entry points and all four packages are in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(folder: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_trains_from_an_empty_folder(tmp_path: Path) -> None:
    run(tmp_path, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "wheels", str(ROOT))
    (wheel,) = (tmp_path / "wheels").glob("footplate-*.whl")
    run(tmp_path, "-m", "pip", "install", "--quiet", "--no-deps", "--target", "installed", str(wheel))
    installed = str(
        tmp_path / "installed"
    )  # before the development install on the path; what it needs comes from there

    where = run(tmp_path, "-c", "import footplate, footplate_rl; print(footplate.__file__)", PYTHONPATH=installed)
    assert where.startswith(installed)
    recipes = run(tmp_path, "-m", "footplate", "recipes", PYTHONPATH=installed)
    assert {line.split()[0] for line in recipes.splitlines()[1:] if line.strip()} >= {"copy-transformer", "pong-paac"}
    short = ["updates=2", "evaluate.every_updates=2", "evaluate.sentences=8", "threads=1"]
    run(tmp_path, "-m", "footplate", "train", "copy-transformer", *short, PYTHONPATH=installed)
    assert (tmp_path / "runs" / "copy-transformer" / "checkpoints" / "000002" / "manifest.json").is_file()
