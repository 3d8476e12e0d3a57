"""Where the frames of a replay lie: each once, as they are or compressed.

Axes: B sampled rows, W rows of a window, F all axes of one frame.
"""

import zlib
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from footplate.segments import Buffer, Segments

_SEGMENT_BYTES = 2**25


class Frames(Protocol):
    """One frame for each row."""

    shape: tuple[int, ...]
    """F, of one frame."""
    rows: int
    row_bytes: int
    """What a frame takes, uncompressed."""

    def write(self, rows_B: NDArray[np.intp], frames_BF: NDArray[Any]) -> None:
        """Put frames into rows, each of which comes once."""

    def gather(self, rows_BW: NDArray[np.intp]) -> NDArray[Any]:
        """The frames of these rows, (B, W, F), zeros where there were none; the next gathering may write over it."""

    def content(self, rows: slice) -> Buffer:
        """The bytes that `fill` takes."""

    def fill(self, rows: slice, content: bytes) -> None:
        """Bring rows to where they were when `content` returned this. Raises ValueError where it does not fit."""


class PlainFrames:
    """Frames in an array. Memory that was never written to costs nothing."""

    def __init__(self, rows: int, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.rows, self.shape = rows, tuple(shape)
        self._array = np.zeros((rows, *shape), dtype)
        self.row_bytes = prod(shape) * self._array.itemsize
        self._gathered = self._array[:0, None]

    def write(self, rows_B: NDArray[np.intp], frames_BF: NDArray[Any]) -> None:
        self._array[rows_B] = frames_BF

    def gather(self, rows_BW: NDArray[np.intp]) -> NDArray[Any]:
        # Fresh memory for a batch of 256 stacks, 9 MB, takes longer to map than to fill: keep it.
        if self._gathered.shape[:2] != rows_BW.shape:
            self._gathered = np.empty((*rows_BW.shape, *self.shape), self._array.dtype)
        return self._array.take(rows_BW, axis=0, out=self._gathered, mode="clip")  # else `out` is copied

    def content(self, rows: slice) -> Buffer:
        return self._array[rows].reshape(-1).view(np.uint8).data

    def fill(self, rows: slice, content: bytes) -> None:
        self._array[rows] = np.frombuffer(content, self._array.dtype).reshape(self._array[rows].shape)


class CompressedFrames:
    """Each frame compressed by zlib: an Atari frame of 7,056 bytes takes some hundreds. Every reader pays for it."""

    _LEVEL = 1  # twice as fast as 6, for some 15 % more bytes

    def __init__(self, rows: int, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.rows, self.shape, self._dtype = rows, tuple(shape), np.dtype(dtype)
        self.row_bytes = prod(shape) * self._dtype.itemsize
        self._compressed = [zlib.compress(bytes(self.row_bytes), self._LEVEL)] * rows

    def write(self, rows_B: NDArray[np.intp], frames_BF: NDArray[Any]) -> None:
        for row, frame in zip(rows_B.tolist(), frames_BF, strict=True):
            self._compressed[row] = zlib.compress(np.asarray(frame, self._dtype).tobytes(), self._LEVEL)

    def gather(self, rows_BW: NDArray[np.intp]) -> NDArray[Any]:
        plain = b"".join([zlib.decompress(self._compressed[row]) for row in rows_BW.ravel().tolist()])
        return np.frombuffer(bytearray(plain), self._dtype).reshape(*rows_BW.shape, *self.shape)

    def content(self, rows: slice) -> Buffer:
        lengths = np.array([len(frame) for frame in self._compressed[rows]], np.int64)
        return lengths.tobytes() + b"".join(self._compressed[rows])

    def fill(self, rows: slice, content: bytes) -> None:
        count = len(range(*rows.indices(self.rows)))
        lengths = np.frombuffer(content, np.int64, count).tolist()
        ends = list(accumulate(lengths, initial=8 * count))
        if ends[-1] != len(content):
            raise ValueError(f"a segment of {len(content)} bytes where {ends[-1]} are said")
        self._compressed[rows] = [content[first:end] for first, end in pairwise(ends)]


class SavedFrames:
    """Which segments hold the frames, so that only those are written in which a row has changed."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._size = min(frames.rows, max(1, _SEGMENT_BYTES // max(1, frames.row_bytes)))
        count = -(-frames.rows // self._size)
        self._is_saved = np.zeros(count, np.bool_)
        self._names: list[str | None] = [None] * count

    def changed(self, rows_B: NDArray[np.intp]) -> None:
        """Frames of these rows were written."""
        self._is_saved[rows_B // self._size] = False

    def save(self, segments: Segments, rows: int) -> list[str]:
        """The names of the segments that hold the first so many rows, and all of them are there."""
        return [self._save(number, segments) for number in range(-(-rows // self._size))]

    def load(self, names: Sequence[str], segments: Segments) -> None:
        """Fill the frames from these segments."""
        for number, name in enumerate(names):
            self._frames.fill(self._rows(number), segments.read(name))
            self._names[number], self._is_saved[number] = name, True

    def _save(self, number: int, segments: Segments) -> str:
        name = self._names[number]
        if name is None or not self._is_saved[number] or not segments.keep(name):
            name = self._names[number] = segments.write(self._frames.content(self._rows(number)))
            self._is_saved[number] = True
        return name

    def _rows(self, number: int) -> slice:
        return slice(number * self._size, min((number + 1) * self._size, self._frames.rows))
