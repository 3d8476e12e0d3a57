"""Checkpoints: folders that exist when their manifest does, and that run no code when they are read.

    checkpoints/000400/model.safetensors    weights, tied tensors once
                       update.pt            plain containers and tensors, read with `weights_only=True`
                       manifest.json        written last: size and SHA-256 of every file, versions, score

A checkpoint is written beside its place, every file and folder is fsynced, and only then is it renamed: a reader sees
all of it or nothing, whenever the writer is killed.
"""

import hashlib
import json
import math
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from footplate import __version__
from footplate.errors import CheckpointError
from footplate.step import Stateful

MANIFEST = "manifest.json"
FORMAT = 1


class Checkpoint:
    """A complete checkpoint on disk. Raises CheckpointError, naming the file, where anything in it is damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the manifest says, once every file has been compared with it."""
        path = self.folder / MANIFEST
        try:
            manifest = json.loads(path.read_text())
            expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
            int(manifest["update"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: the manifest is missing or damaged; this checkpoint cannot be used"
            ) from error
        if manifest.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: format {manifest.get('format')} is not {FORMAT}; read it with the Footplate that wrote it"
            )
        for name, (size, digest) in expected.items():
            _verify(self.folder / name, size, digest)
        return manifest  # type: ignore[no-any-return]

    @property
    def update(self) -> int:
        """How many updates had been made."""
        return int(self.manifest["update"])

    @property
    def previous(self) -> int | None:
        """The update of the checkpoint that was the newest when this one was written; it may be deleted by now."""
        previous = self.manifest.get("previous")
        return None if previous is None else int(previous)

    @property
    def score(self) -> float | None:
        """The value of the job's `best.metric` at this checkpoint, if there was an evaluation."""
        score = self.manifest.get("score")
        return None if score is None else float(score)

    def restore(self, parts: Mapping[str, Stateful]) -> None:
        """Load every part from the file of its name."""
        for name, part in parts.items():
            state = self.load_module_state(name) if isinstance(part, nn.Module) else self.load_state(name)
            try:
                part.load_state_dict(state)
            except (KeyError, RuntimeError, ValueError, TypeError) as error:
                reason = " ".join(str(error).split())
                raise CheckpointError(f"{self.folder}: {name}: does not fit this job ({reason[:300]})") from error

    def load_module_state(self, name: str) -> dict[str, Tensor]:
        """The `state_dict` of a module, ties included."""
        path = self._file(f"{name}.safetensors")
        try:
            with safe_open(path, framework="pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
                ties = json.loads((file.metadata() or {}).get("ties", "{}"))
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from error
        return state | {alias: state[kept] for alias, kept in ties.items()}

    def load_state(self, name: str) -> dict[str, Any]:
        """The `state_dict` of a part that is not a module."""
        path = self._file(f"{name}.pt")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
        except Exception as error:  # the unpickler raises whatever the bytes make it raise
            raise CheckpointError(f"{path}: cannot be read as plain data; nothing in it was run") from error

    def _file(self, name: str) -> Path:
        if name not in self.manifest["files"]:
            raise CheckpointError(f"{self.folder}: has no {name}; it is a checkpoint of another kind of run")
        return self.folder / name


def _verify(path: Path, size: int, digest: str) -> None:
    try:
        with path.open("rb") as file:
            intact = path.stat().st_size == size and hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError as error:
        raise CheckpointError(f"{path}: is missing or cannot be read; this checkpoint cannot be used") from error
    if not intact:
        raise CheckpointError(
            f"{path}: is damaged (its bytes are not those that were written); this checkpoint cannot be used"
        )


class CheckpointStore:
    """The checkpoints of one run: the newest `keep_last` and the `keep_best` of the best score stay.

    `report` is told, in a line, of everything that goes wrong without ending the run.
    """

    def __init__(
        self,
        folder: Path,
        report: Callable[[str], None] = lambda text: None,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        higher_is_better: bool = True,
    ) -> None:
        self.folder = folder
        self._report = report
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._sign = 1 if higher_is_better else -1
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, update: int, parts: Mapping[str, Stateful], *, score: float | None = None) -> None:
        """Copy the state of the parts now, and write it in the background; waits for the write before this one."""
        self.wait()
        score = score if score is not None and math.isfinite(score) else None
        snapshot = {name: _snapshot(part) for name, part in parts.items()}
        self._writing = self._writer.submit(self._write, update, snapshot, score)

    def wait(self) -> None:
        """Return when all that was saved is on disk. A write that failed was reported; training need not end for it."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """Finish writing and end the writer's thread."""
        self.wait()
        self._writer.shutdown()

    def sweep(self) -> None:
        """Remove what a killed writer left behind."""
        for leftover in self.folder.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def updates(self) -> list[int]:
        """The updates that have a checkpoint, in order; whether it is intact shows when it is read."""
        names = (path.parent.name for path in self.folder.glob(f"*/{MANIFEST}"))
        return sorted(int(name) for name in names if name.isdigit())

    def at(self, update: int) -> Checkpoint:
        """The checkpoint of this update."""
        return Checkpoint(self.folder / f"{update:06d}")

    def newest(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None where there are none at all; damaged ones are reported and passed over.

        Raises CheckpointError where there are checkpoints and none is intact: nobody should start over by accident.
        """
        updates = self.updates()
        for update in reversed(updates):
            if (checkpoint := self._intact(update, "trying the one before" * (update > updates[0]))) is not None:
                return checkpoint
        if updates:
            raise CheckpointError(f"{self.folder}: none of its checkpoints can be used; move it away to start over")
        return None

    def _intact(self, update: int, what_next: str) -> Checkpoint | None:
        checkpoint = self.at(update)
        try:
            checkpoint.manifest  # noqa: B018 - reading it verifies every file
        except CheckpointError as error:
            self._report("; ".join(filter(None, (str(error), what_next))))
            return None
        return checkpoint

    def best(self) -> Checkpoint | None:
        """The intact checkpoint with the best score (the newest of equals), or None where none has a score."""
        candidates = (self._intact(update, "trying the next best") for update in self._ranked())
        return next(filter(None, candidates), None)

    def _ranked(self) -> list[int]:
        scores = {update: score for update in self.updates() if (score := _score(self.at(update).folder)) is not None}
        return sorted(scores, key=lambda update: (self._sign * scores[update], update), reverse=True)

    def _prune(self) -> None:
        updates = self.updates()
        for update in {*updates} - {*updates[-self._keep_last :]} - {*self._ranked()[: self._keep_best]}:
            self._delete(self.at(update).folder)

    def _delete(self, folder: Path) -> None:
        doomed = folder.with_name(f".deleting-{folder.name}")
        try:
            folder.rename(doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            self._report(f"{folder}: cannot be deleted ({error.strerror}); delete it by hand")

    def _write(self, update: int, snapshot: Mapping[str, "_Snapshot"], score: float | None) -> None:
        place = self.folder / f"{update:06d}"
        beside = self.folder / f".writing-{place.name}"
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            files = dict(_write_part(beside, name, state) for name, state in snapshot.items())
            previous = max((earlier for earlier in self.updates() if earlier < update), default=None)
            manifest = {
                "format": FORMAT,
                "update": update,
                "previous": previous,
                "score": score,
                "files": files,
                "versions": _versions(),
            }
            (beside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
            _fsync(beside / MANIFEST)
            _fsync(beside)
            if place.exists():  # a damaged one that was passed over
                self._delete(place)
            beside.rename(place)
            _fsync(self.folder)
            self._prune()
        except (OSError, SafetensorError, RuntimeError) as error:  # safetensors and torch wrap the system's errors
            shutil.rmtree(beside, ignore_errors=True)
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            self._report(f"{place}: could not be written ({reason}); training goes on, the checkpoint before stays")


class _Snapshot:
    """A part's state, copied to the CPU so that training may go on while it is written."""

    def __init__(self, state: Mapping[str, Any], ties: dict[str, str] | None) -> None:
        self.state = state
        self.ties = ties


def _snapshot(part: Stateful) -> _Snapshot:
    if not isinstance(part, nn.Module):
        return _Snapshot(_copied(part.state_dict()), None)
    kept: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first_name: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    for name, tensor in part.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place in first_name:
            ties[name] = first_name[place]
        else:
            first_name[place] = name
            kept[name] = _copied(tensor)
    return _Snapshot(kept, ties)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_copied(entry) for entry in value]
    if isinstance(value, tuple):
        return tuple(_copied(entry) for entry in value)
    return value


def _write_part(folder: Path, name: str, snapshot: _Snapshot) -> tuple[str, dict[str, Any]]:
    path = folder / (f"{name}.pt" if snapshot.ties is None else f"{name}.safetensors")
    if snapshot.ties is None:
        with path.open("wb") as file:
            torch.save(snapshot.state, file)
    else:
        # One metadata entry: several would be written in a random order, and equal weights should be equal bytes.
        save_file(dict(snapshot.state), path, metadata={"ties": json.dumps(snapshot.ties, sort_keys=True)})
    _fsync(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return path.name, {"bytes": path.stat().st_size, "sha256": digest}


def _score(folder: Path) -> float | None:
    try:
        score = json.loads((folder / MANIFEST).read_text())["score"]
        return float(score) if score is not None and math.isfinite(score) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged: whoever reads the checkpoint is told


def _versions() -> dict[str, str]:
    return {"footplate": __version__, "torch": torch.__version__, "python": platform.python_version()}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
