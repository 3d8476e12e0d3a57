"""Checkpoints: folders that exist when their manifest does, and that run no code when they are read.

    checkpoints/000400/model.safetensors    weights, tied tensors once
                       update.pt            plain containers and tensors, read with `weights_only=True`
                       manifest.json        written last: size and SHA-256 of every file, versions, score
    checkpoints/segments/                   large pieces that checkpoints share (`footplate.segments`)

A checkpoint is written beside its place, every file and folder is fsynced, and only then is it renamed: a reader sees
all of it or nothing, whenever the writer is killed. What is in the files is the business of `footplate.part_files`;
without it, nothing here needs torch.
"""

import hashlib
import json
import math
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from footplate import __version__
from footplate.errors import CheckpointError, TrainingError
from footplate.folder import is_seen
from footplate.segments import FOLDER, Segmented, Segments, digest, fsync

if TYPE_CHECKING:
    from torch import Tensor

    from footplate.part_files import Snapshots
    from footplate.step import Part

MANIFEST = "manifest.json"
ELSEWHERE = ".elsewhere"
"""Beside the manifest of a checkpoint whose files are still at a URL, which is its text; they come when it is read."""
FORMAT = 1
FAILURES_IN_A_ROW = 3
"""A run ends when so many checkpoints in a row could not be written."""


class Checkpoint:
    """A complete checkpoint on disk. Raises CheckpointError, naming the file, where anything in it is damaged.

    Without `segments` those are compared with the manifest only if and when a part reads them: gigabytes of a replay
    need not be read for the sake of the weights.
    """

    def __init__(self, folder: Path, *, segments: bool = True) -> None:
        self.folder = folder
        self._segments = segments

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the manifest says, once every file has been compared with it."""
        path = self.folder / MANIFEST
        if is_seen(self.folder / ELSEWHERE):
            from footplate.remote import bring_down

            bring_down(self.folder)
        try:
            manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
            is_readable = manifest["format"] == FORMAT
            if is_readable and (seal(manifest), int(self.folder.name)) != (manifest["seal"], manifest["update"]):
                raise ValueError("it is not what was written")
            check_names(manifest)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: the manifest is missing or damaged; this checkpoint cannot be used"
            ) from error
        if not is_readable:
            raise CheckpointError(
                f"{path}: format {manifest['format']} is not {FORMAT}; read it with the Footplate that wrote it"
            )
        for name, entry in manifest["files"].items():
            _verify(self.folder / name, entry["bytes"], entry["sha256"])
        for name, size in manifest.get("segments", {}).items() if self._segments else ():
            _verify(self.folder.parent / FOLDER / name, size, name)
        return manifest

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

    def restore(self, parts: Mapping[str, "Part"]) -> None:
        """Load every part from the file of its name."""
        from torch import nn

        from footplate.part_files import first_misfit

        for name, part in parts.items():
            state = self.load_module_state(name) if isinstance(part, nn.Module) else self.load_state(name)
            try:
                if isinstance(part, Segmented):
                    part.load_from(state, Segments(self.folder.parent))
                else:
                    part.load_state_dict(state)
            except (LookupError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
                reason = first_misfit(part, state) if isinstance(part, nn.Module) else " ".join(str(error).split())
                raise CheckpointError(
                    f"{self.folder}: {name}: does not fit this job ({reason[:300]}); "
                    "use the settings that it was trained with"
                ) from error

    def load_module_state(self, name: str) -> "dict[str, Tensor]":
        """The `state_dict` of a module, ties included."""
        from footplate.part_files import load_module_state

        return load_module_state(self._file(f"{name}.safetensors"))

    def load_state(self, name: str) -> dict[str, Any]:
        """The `state_dict` of a part that is not a module."""
        from footplate.part_files import load_plain_state

        return load_plain_state(self._file(f"{name}.pt"))

    def _file(self, name: str) -> Path:
        if name not in self.manifest["files"]:
            raise CheckpointError(f"{self.folder}: has no {name}; it is a checkpoint of another kind of run")
        return self.folder / name


def seal(manifest: Mapping[str, Any]) -> str:
    """The SHA-256 of all that a manifest says, but for this."""
    said = {name: value for name, value in manifest.items() if name != "seal"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def check_names(manifest: Mapping[str, Any]) -> None:
    """Raise ValueError where a manifest lists a file by more than a plain name: a stranger's may lead anywhere."""
    for name in (*manifest["files"], *manifest.get("segments", {})):
        if Path(name).name != name or name in {"", ".."} or "\0" in name:
            raise ValueError(f"{name!r} is no file of a checkpoint")


def _verify(path: Path, size: int, sha256: str) -> None:
    try:
        intact = path.stat().st_size == size and digest(path) == sha256
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        raise CheckpointError(f"{path}: is missing or cannot be read; this checkpoint cannot be used") from error
    if not intact:
        raise CheckpointError(
            f"{path}: is damaged (its bytes are not those that were written); this checkpoint cannot be used"
        )


class CheckpointStore:
    """The checkpoints of one run: the newest `keep_last` and the `keep_best` of the best score stay.

    `report` is told, in a line, of everything that goes wrong without ending the run. `companions` are files, such as
    the metrics, that reach the disk before a checkpoint does: it must never know more than they. `segments` is said to
    each `Checkpoint`.
    """

    def __init__(
        self,
        folder: Path,
        report: Callable[[str], None] = lambda text: None,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        higher_is_better: bool = True,
        companions: Sequence[Path] = (),
        segments: bool = True,
    ) -> None:
        self.folder = folder
        self._report = report
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._sign = 1 if higher_is_better else -1
        self._companions = companions
        self._segments = segments
        self._snapshots: Snapshots | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._failures_in_a_row = 0
        self._last_failure = ""

    def save(self, update: int, parts: "Mapping[str, Part]", *, score: float | None = None) -> None:
        """Copy the state of the parts now, and write it in the background; waits for the write before this one.

        A write that fails is reported, and training may go on. Raises TrainingError when three in a row have failed.
        """
        from footplate.part_files import Snapshots

        self.wait()
        self._snapshots = self._snapshots or Snapshots()
        segments = Segments(self.folder)
        try:
            files = self._snapshots.take(parts, segments)
        except OSError as error:
            self._fail(self.at(update).folder, error)
            self._end_after_failures()
        else:
            self.save_files(update, files, score=score, segments=segments.listed)

    def save_files(
        self,
        update: int,
        files: Mapping[str, Callable[[Path], object]],
        *,
        score: float | None = None,
        segments: Mapping[str, int] | None = None,
    ) -> None:
        """The same for files that are no parts: for each name, what writes it to a path, called in the background.

        `segments` has the bytes of those that belong to this checkpoint; they are there already.
        """
        self.wait()
        extra = {
            "score": score if score is not None and math.isfinite(score) else None,
            **({"segments": dict(segments)} if segments else {}),
        }
        self._writing = self._writer.submit(self._write, update, files, extra)
        if self._failures_in_a_row:
            self.wait()  # where the disk makes trouble, nobody should train for an hour before hearing how it went

    def wait(self) -> None:
        """Return when what was saved is on disk, or reported as failed. Raises TrainingError after three failures."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()
            self._end_after_failures()

    def _end_after_failures(self) -> None:
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:
            raise self._unsaved(f"nor could the {FAILURES_IN_A_ROW - 1} before it")

    def close(self) -> None:
        """Finish writing and end the writer's thread. Raises TrainingError where the last write failed."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
        if self._failures_in_a_row:
            raise self._unsaved("and the run has ended")

    def _unsaved(self, circumstance: str) -> TrainingError:
        updates = self.updates()
        start = f"goes on from update {updates[-1]}" if updates else "starts over"
        return TrainingError(
            f"{self._last_failure}, {circumstance}; mend that, then `footplate resume {self.folder.parent}` {start}"
        )

    def sweep(self) -> None:
        """Remove what a killed writer left behind."""
        for leftover in self.folder.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._sweep_segments()

    def forget_after(self, update: int) -> None:
        """Remove the checkpoints beyond an update: a run that goes on from there, past damaged ones, makes them again.

        Left where they are they would be the newest, which `keep_last` keeps and the next resumption begins with.
        """
        for later in self.updates():
            if later > update:
                self._delete(self.at(later).folder)

    def updates(self) -> list[int]:
        """The updates that have a checkpoint, in order; whether it is intact shows when it is read."""
        names = (path.name for path in self.folder.glob("*") if path.name.isdecimal() and path.name.isascii())
        return sorted(int(name) for name in names if name == f"{int(name):06d}")  # others, such as copies, are not ours

    def at(self, update: int) -> Checkpoint:
        """The checkpoint of this update."""
        return Checkpoint(self.folder / f"{update:06d}", segments=self._segments)

    def newest(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None where there are none at all; damaged ones are reported and passed over.

        Raises CheckpointError where there are checkpoints and none is intact: nobody should start over by accident.
        """
        try:
            if self.folder.exists():
                next(self.folder.iterdir(), None)
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: cannot be read ({error.strerror}); make it readable, or move it away to start over"
            ) from error
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
        self._sweep_segments()

    def _sweep_segments(self) -> None:
        """Remove the segments that no checkpoint lists; none while there is one whose list can't be read."""
        segments = Segments(self.folder)
        manifests = [_read_sealed(self.at(update).folder) for update in self.updates()]
        if segments.folder.exists() and None not in manifests:
            try:
                segments.sweep({name for manifest in manifests if manifest for name in manifest.get("segments", {})})
            except OSError as error:
                self._report(f"{segments.folder}: cannot be swept ({error.strerror}); delete what is old by hand")

    def _delete(self, folder: Path) -> None:
        doomed = folder.with_name(f".deleting-{folder.name}")
        try:
            folder.rename(doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            self._report(f"{folder}: cannot be deleted ({error.strerror}); delete it by hand")

    def _write(self, update: int, files: Mapping[str, Callable[[Path], object]], extra: Mapping[str, Any]) -> None:
        place = self.folder / f"{update:06d}"
        beside = self.folder / f".writing-{place.name}"
        try:
            shutil.rmtree(beside, ignore_errors=True)
            if not self.folder.exists():
                self.folder.mkdir(parents=True)
                fsync(self.folder.parent)
            beside.mkdir()
            self._fill(beside, update, files, extra)
            for companion in self._companions:
                fsync(companion)
            if place.exists():  # a damaged one that was passed over
                self._delete(place)
            beside.rename(place)
            fsync(self.folder)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            self._fail(place, error)
        else:
            self._failures_in_a_row = 0
            self._prune()

    def _fail(self, place: Path, error: OSError) -> None:
        self._failures_in_a_row += 1
        self._last_failure = f"{place}: could not be written ({error.strerror or error})"
        if self._failures_in_a_row < FAILURES_IN_A_ROW:
            self._report(f"{self._last_failure}; training goes on, the checkpoint before stays")

    def _fill(
        self, beside: Path, update: int, files: Mapping[str, Callable[[Path], object]], extra: Mapping[str, Any]
    ) -> None:
        entries = {}
        for name, write in files.items():
            write(beside / name)
            fsync(beside / name)
            entries[name] = {"bytes": (beside / name).stat().st_size, "sha256": digest(beside / name)}
        previous = max((earlier for earlier in self.updates() if earlier < update), default=None)
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "update": update,
            "previous": previous,
            "files": entries,
            "versions": _versions(),
            **extra,
        }
        manifest["seal"] = seal(manifest)
        (beside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        fsync(beside / MANIFEST)
        fsync(beside)


def _read_sealed(folder: Path) -> dict[str, Any] | None:
    """What a manifest says, without a look at the files; None where it is damaged, as who reads them is told."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        return manifest if seal(manifest) == manifest["seal"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _score(folder: Path) -> float | None:
    try:
        score = (_read_sealed(folder) or {})["score"]
        return float(score) if score is not None and math.isfinite(score) else None
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _versions() -> dict[str, str]:
    return {"footplate": __version__, "torch": version("torch"), "python": platform.python_version()}
