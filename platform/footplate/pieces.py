"""A file that grows, kept in a storage that cannot append: as pieces, each an object of whole lines.

    metrics/000000000000    the first bytes of metrics.jsonl, up to the end of some line
    metrics/000000262187    what follows; the name is where it begins

Only the last piece is written again, longer, until it is large enough and another begins. When the file has been cut
back, the pieces behind the cut are deleted from the last to the first, and then the one that holds the cut is written
again: at every moment the pieces, joined, are whole lines of some moment of the file's life.
"""

import hashlib
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from footplate.storage import Storage

PIECE_BYTES = 1 << 18


class Piece(NamedTuple):
    """What is in one object."""

    start: int
    length: int
    sha256: str

    @property
    def end(self) -> int:
        return self.start + self.length


class Pieces:
    """The pieces of one local file."""

    def __init__(self, storage: Storage, folder: str, path: Path) -> None:
        self._storage = storage
        self._folder = folder
        self._path = path
        self._up: list[Piece] | None = None
        self._file_number = 0
        self._let_go: Callable[[], object] = lambda: None

    def bring_up(self) -> None:
        """Bring every whole line of the file up. Raises StorageError."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            status = os.fstat(file.fileno())  # another may be in its place by now
            if self._up is None:
                self._up = [_piece(start, content) for start, content in read_pieces(self._storage, self._folder)]
            if status.st_ino != self._file_number or (self._up and status.st_size < self._up[-1].end):
                whole = file.read()
                self._cut_to(whole[: whole.rfind(b"\n") + 1])
                self._hold(file)
            last = self._up[-1] if self._up else None
            start = 0 if last is None else last.start if last.length < PIECE_BYTES else last.end
            file.seek(start)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        if last is not None and start + len(lines) <= last.end:
            return
        if last is not None and start == last.start:
            self._up.pop()
        while lines:
            end = lines.find(b"\n", PIECE_BYTES - 1) + 1 or len(lines)
            self._storage.write(self._name(start), lines[:end])
            self._up.append(_piece(start, lines[:end]))
            start, lines = start + end, lines[end:]

    def _hold(self, file: BinaryIO) -> None:
        """Keep this file open, though it be replaced: no other can get the number by which it is known again."""
        self._let_go()
        self._let_go = weakref.finalize(self, os.close, os.dup(file.fileno()))
        self._file_number = os.fstat(file.fileno()).st_ino

    def _cut_to(self, whole: bytes) -> None:
        """Forget the pieces that are no longer what the file says, and delete them but for what will be replaced."""
        assert self._up is not None
        same = 0
        for piece in self._up:
            if _piece(piece.start, whole[piece.start : piece.end]) != piece:
                break
            same += 1
        other = self._up[same:]
        if other and len(whole) > other[0].start:
            other = other[1:]
        self._storage.delete([self._name(piece.start) for piece in reversed(other)])
        self._up = self._up[:same]

    def _name(self, start: int) -> str:
        return f"{self._folder}/{start:012d}"


def read_pieces(storage: Storage, folder: str) -> list[tuple[int, bytes]]:
    """Where each piece begins and its bytes, up to the first gap. Raises StorageError."""
    starts = {name: int(name.rpartition("/")[2]) for name in storage.sizes(folder) if name[-12:].isdecimal()}
    contents = storage.read_all(sorted(starts))
    pieces: list[tuple[int, bytes]] = []
    end = 0
    for name, content in contents.items():
        if starts[name] != end:
            break
        pieces.append((end, content))
        end += len(content)
    return pieces


def _piece(start: int, content: bytes) -> Piece:
    return Piece(start, len(content), hashlib.sha256(content).hexdigest())
