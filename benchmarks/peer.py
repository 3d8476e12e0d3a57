"""Other libraries to measure beside, each in a virtual environment of its own: their pins must not meet ours."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / "benchmarks" / ".peers"


def python_of(peer: str, *packages: str, with_torch: bool = True) -> Path:
    """The interpreter of the environment called `peer`, made on first use and anew when the packages change.

    torch, where it is wanted, is the version that constraints.txt pins, so that both sides compute with the same one.
    """
    folder = ENVIRONMENTS / peer
    python, made = folder / "bin" / "python", folder / "packages.txt"
    wanted = "\n".join(packages)
    if made.is_file() and made.read_text() == wanted:
        return python
    print(f"making {folder} with {', '.join(packages)}", file=sys.stderr)
    venv.create(folder, clear=True, with_pip=True)
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    torch = [line for line in constraints if line.startswith("torch==")] if with_torch else []
    subprocess.run([python, "-m", "pip", "install", "--quiet", *torch, *packages], check=True)
    made.write_text(wanted)
    return python


def measure(python: Path, program: Path, *arguments: str, threads: int) -> Any:
    """What a program prints as JSON on its last line, run with so many threads for torch and BLAS."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [python, program, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    return json.loads(done.stdout.splitlines()[-1])
