"""A program for tests: write checkpoints of plain files into a folder, one after the other, until somebody kills it.

Each update is printed once it is saved.
"""

import hashlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from footplate.checkpoint import CheckpointStore


def content(update: int, name: str) -> bytes:
    """What belongs into a file: 256 KiB."""
    return hashlib.sha256(f"{update} {name}".encode()).digest() * 8192


def files(update: int) -> dict[str, Callable[[Path], object]]:
    """What writes the files of a checkpoint."""

    def write(name: str, path: Path) -> None:
        with path.open("wb", buffering=0) as file:
            for block in range(8):
                file.write(content(update, name)[block * 32768 : (block + 1) * 32768])

    return {name: partial(write, name) for name in ("a", "b", "c")}


def main() -> None:
    """Go on from the newest checkpoint in the folder that is named on the command line."""
    store = CheckpointStore(Path(sys.argv[1]), print)
    store.sweep()
    newest = store.newest()
    update = 0 if newest is None else newest.update
    while "torch" not in sys.modules:
        update += 1
        store.save_files(update, files(update), score=float(update % 3))
        store.wait()
        print(update, flush=True)


if __name__ == "__main__":
    main()
