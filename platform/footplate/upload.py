"""Bringing a run folder up to a storage: one pass after the other, each making the storage what the folder is.

There is no queue: what is not up is what the folder has and the storage has not, whenever one looks, in whichever
process. A checkpoint's manifest goes up last, after the rows that it knows of, and is deleted first.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from footplate.checkpoint import ELSEWHERE, MANIFEST, CheckpointStore, check_names
from footplate.folder import RunFolder
from footplate.pieces import Pieces
from footplate.segments import FOLDER as SEGMENTS
from footplate.storage import Storage

GROWING = {"metrics": "metrics.jsonl", "log": "log.txt"}
"""Files that go up as pieces, by the folder that these have in the storage."""
WRITTEN_ONCE = ("samples", "videos", "evaluations")
STAYS = {*GROWING.values(), "status.json", "checkpoints", "data", "wandb", "ray", "lock", "stop"}
"""What other rules are for, or what means nothing elsewhere: a corpus is tokenised anew, W&B has its own uploads."""


class Upload:
    """What of a run folder is up. `require` is called before every write, and raises StorageError to forbid it."""

    def __init__(self, folder: RunFolder, storage: Storage, require: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._storage = storage
        self._require = require
        self._store = CheckpointStore(folder.checkpoints)
        self._growing = [Pieces(storage, name, folder.path / file) for name, file in GROWING.items()]
        self._up: dict[str, tuple[int, int]] = {}
        self._sizes: dict[str, int] | None = None
        self._manifests: dict[int, bytes] = {}
        self._held = folder.path / ".uploading"

    @property
    def newest(self) -> int | None:
        """The update of the newest checkpoint that is up."""
        return max(self._manifests, default=None)

    def bring_up(self) -> None:
        """One pass. Raises StorageError where the storage fails; what is up stays up, and the next pass goes on."""
        self._look()
        self._bring_up_what_grows()
        while (update := self._missing()) is not None and self._bring_up_checkpoint(update):
            pass
        self._bring_up_files()
        self._delete_checkpoints()
        self._bring_up_file(self._folder.status)

    def _look(self) -> None:
        """What is up, by the storage's own word, once."""
        if self._sizes is not None:
            return
        sizes = self._storage.sizes()
        manifests = [name for name in sizes if name.startswith("checkpoints/") and name.endswith(f"/{MANIFEST}")]
        contents = self._storage.read_all(manifests)
        self._manifests = {int(name.split("/")[1]): content for name, content in contents.items()}
        shutil.rmtree(self._held, ignore_errors=True)
        self._sizes = sizes

    def _bring_up_what_grows(self) -> None:
        self._require()
        for pieces in self._growing:
            pieces.bring_up()

    def _missing(self) -> int | None:
        """The newest checkpoint of the folder that is not up: an older one may be deleted before its turn comes."""
        for update in reversed(self._store.updates()):
            place = self._store.at(update).folder
            if not (place / ELSEWHERE).exists() and _read(place / MANIFEST) not in (b"", self._manifests.get(update)):
                return update
        return None

    def _bring_up_checkpoint(self, update: int) -> bool:
        """Whether it was still there. It is held by links meanwhile: the run may delete it."""
        place = self._store.at(update).folder
        manifest = _read(place / MANIFEST)
        name = f"checkpoints/{place.name}"
        held = self._held / place.name
        shutil.rmtree(self._held, ignore_errors=True)
        held.mkdir(parents=True)
        try:
            listed = json.loads(manifest)
            check_names(listed)
            files = {f"{name}/{file}": place / file for file in listed["files"]}
            shared = {
                f"checkpoints/{SEGMENTS}/{each}": place.parent / SEGMENTS / each for each in listed.get("segments", {})
            }
            missing = {up: path for up, path in shared.items() if up not in self._names()}
            links = {up: _held(path, held) for up, path in {**files, **missing}.items()}
        except (OSError, ValueError, KeyError, TypeError):  # deleted meanwhile, or damaged: nobody could use it
            return False
        if update in self._manifests:
            self._delete(f"{name}/{MANIFEST}")
            del self._manifests[update]
        for up, path in links.items():
            self._bring_up_what_grows()
            self._storage.upload(path, up)
            self._names()[up] = path.stat().st_size
        self._bring_up_what_grows()
        self._storage.write(f"{name}/{MANIFEST}", manifest)
        self._names()[f"{name}/{MANIFEST}"] = len(manifest)
        self._manifests[update] = manifest
        shutil.rmtree(self._held, ignore_errors=True)
        return True

    def _delete_checkpoints(self) -> None:
        """Delete what the folder has deleted, but never the newest, and what a killed upload has left.

        The newest is none of those beyond the folder's own: a run that went on from before them makes them again.
        """
        here = self._store.updates()
        if not self._manifests or not here:
            return
        there = {*here, max((update for update in self._manifests if update <= here[-1]), default=None)}
        for update in sorted({*self._manifests} - there):
            self._delete(f"checkpoints/{update:06d}/{MANIFEST}")
            del self._manifests[update]
        listed = self._listed()
        wanted = {f"{update:06d}" for update in self._manifests}
        for name in [name for name in self._names() if name.startswith("checkpoints/")]:
            _, folder, file = name.split("/", 2)
            if listed is not None and file not in listed if folder == SEGMENTS else folder not in wanted:
                self._delete(name)

    def _listed(self) -> set[str] | None:
        """The segments of all checkpoints that are up; None where one does not say which are its own."""
        try:
            return {name for content in self._manifests.values() for name in json.loads(content).get("segments", {})}
        except (ValueError, TypeError, AttributeError, RecursionError):
            return None

    def _bring_up_files(self) -> None:
        for path in sorted(self._folder.path.iterdir()):
            if path.name in STAYS or path.name.startswith("."):
                continue
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file() and not file.name.startswith("."):
                    self._bring_up_file(file)

    def _bring_up_file(self, path: Path) -> None:
        name = path.relative_to(self._folder.path).as_posix()
        try:
            status = path.stat()
            found = (status.st_mtime_ns, status.st_size)
            if name.split("/")[0] in WRITTEN_ONCE and self._names().get(name) == status.st_size:
                return
            if self._up.get(name) != found:
                self._require()
                self._storage.upload(path, name)
                self._up[name] = found
                self._names()[name] = status.st_size
        except FileNotFoundError:  # deleted meanwhile
            return

    def _delete(self, name: str) -> None:
        self._require()
        self._storage.delete([name])
        self._names().pop(name, None)

    def _names(self) -> dict[str, int]:
        assert self._sizes is not None
        return self._sizes


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _held(path: Path, folder: Path) -> Path:
    """A link to a file, so that its bytes stay when the file is deleted; a copy where the disk has no links."""
    held = folder / path.name
    try:
        os.link(path, held)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(path, held)
    return held
