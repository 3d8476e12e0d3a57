"""Segments: the pieces of a part that is too large to be written anew with every checkpoint.

    checkpoints/segments/<sha256>    immutable, in a file named by the SHA-256 of its bytes, shared by checkpoints

A manifest lists the segments of its checkpoint, and verifies them as its own files. One that no manifest lists is
removed: a checkpoint that was deleted had it to itself, or a killed writer never came to the manifest.
"""

import hashlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from footplate.errors import CheckpointError

FOLDER = "segments"

Buffer = bytes | bytearray | memoryview


class Segments:
    """The segments of a store of checkpoints. `listed` has the bytes of each that was written or kept so far."""

    def __init__(self, checkpoints: Path) -> None:
        self.folder = checkpoints / FOLDER
        self.listed: dict[str, int] = {}

    def keep(self, name: str) -> bool:
        """List a segment that this process has written or read before; whether it is there."""
        path = self.folder / name
        if not path.is_file():
            return False
        self.listed[name] = path.stat().st_size
        return True

    def write(self, content: Buffer) -> str:
        """List a segment of this content, and write it unless it is there; its name. Raises OSError."""
        name = hashlib.sha256(content).hexdigest()
        path = self.folder / name
        if not path.is_file() or digest(path) != name:
            if not self.folder.exists():
                self.folder.mkdir(parents=True)
                fsync(self.folder.parent)
            beside = path.with_name(f".{name}")
            beside.write_bytes(content)
            fsync(beside)
            beside.rename(path)
            fsync(self.folder)
        self.listed[name] = memoryview(content).nbytes
        return name

    def read(self, name: str) -> bytes:
        """The bytes of a segment. Raises CheckpointError where they are not those that were written."""
        path = self.folder / name
        try:
            content = path.read_bytes()
        except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
            raise CheckpointError(f"{path}: is missing or cannot be read; this checkpoint cannot be used") from error
        if hashlib.sha256(content).hexdigest() != name:
            raise CheckpointError(
                f"{path}: is damaged (its bytes are not those that were written); this checkpoint cannot be used"
            )
        return content

    def sweep(self, wanted: Collection[str]) -> None:
        """Remove every segment but those that are wanted. Raises OSError."""
        for path in self.folder.glob("*"):
            if path.name not in wanted:
                path.unlink()


@runtime_checkable
class Segmented(Protocol):
    """A part so large that only what is new of it is written: its state names segments."""

    def save_to(self, segments: Segments) -> Mapping[str, Any]:
        """Write what is new, at once, and return plain containers and tensors for the rest. Raises OSError."""

    def load_from(self, state: Mapping[str, Any], segments: Segments) -> None:
        """Take up the state that `save_to` returned."""


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Return when a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
