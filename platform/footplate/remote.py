"""Runs at a URL: where they are trained on this machine, and the copies of them that commands read.

    <cache>/runs/<hash>/<name>     a run that was trained here: a run folder like any other, mirrored to its URL
    <cache>/copies/<hash>/<name>   what a command saw of a run; the files of a checkpoint come when it is read

The cache is `$FOOTPLATE_CACHE`, or `~/.cache/footplate`. Losing it loses only what was not up yet.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from footplate.checkpoint import ELSEWHERE, MANIFEST, check_names
from footplate.errors import CheckpointError, FootplateError, TrainingError
from footplate.folder import LEASE, ORIGIN, RunFolder
from footplate.interrupts import say_if_heard
from footplate.lease import STOP, Lease, first_lease, newest_lease
from footplate.mirror import Mirror
from footplate.pieces import read_pieces
from footplate.segments import FOLDER as SEGMENTS
from footplate.segments import digest
from footplate.storage import READ_AT_ONCE, Storage, StorageError
from footplate.upload import GROWING

SMALL = ("job.yaml", "status.json", "wandb.json")
SECONDS_BETWEEN_REFRESHES = 2.0
SECONDS_BETWEEN_TRIES = 0.02
KEPT = ("data", "stop")
"""What a folder keeps when another machine has gone on with the run: `data`, which is checked against the recipe
anyway, and a request to stop that comes meanwhile."""


def create(runs: str, name: str) -> RunFolder | None:
    """A new run at a URL, and the copy of it; None where the name is taken. Raises StorageError within seconds."""
    url = f"{runs.rstrip('/')}/{name}"
    storage = Storage(url)
    Storage(runs).check()
    if storage.sizes():
        return None
    copy = _place("copies", url)
    with _cache_explained(copy):  # before the name is taken: a cache that can't be written takes none
        shutil.rmtree(copy, ignore_errors=True)
        _write_origin(copy, url)
    return RunFolder(copy) if first_lease(storage) else None


def write_job(folder: RunFolder) -> None:
    """Bring the job of a new run to where it is trained: its URL. Raises StorageError."""
    assert folder.url is not None
    Storage(folder.url).upload(folder.job, folder.job.name)


def remove(folder: RunFolder) -> None:
    """Remove a run that has not begun, so that its name is free. Raises StorageError."""
    assert folder.url is not None
    storage = Storage(folder.url)
    storage.delete(sorted(storage.sizes(), reverse=True))
    for kind in ("runs", "copies"):
        shutil.rmtree(_place(kind, folder.url), ignore_errors=True)


def ask_to_stop(url: str, reason: str) -> None:
    """Ask whoever trains the run to save and end. Raises StorageError."""
    Storage(url).write(STOP, reason.encode())


def open_copy(url: str) -> RunFolder | None:
    """The copy of a run, as the run is now; None where there is no run. Raises StorageError within seconds."""
    storage = Storage(url)
    storage.check()
    return _refreshed(storage)


def list_copies(runs: str) -> list[RunFolder]:
    """The jobs and states of all runs at a URL, the newest last."""
    storage = Storage(runs)
    storage.check()
    names = [name for name in storage.names() if not name.startswith(".")]
    contents = storage.read_all([f"{name}/{file}" for name in names for file in SMALL[:2]])
    runs_there = [storage.below(name) for name in names if f"{name}/job.yaml" in contents]
    with ThreadPoolExecutor(READ_AT_ONCE, thread_name_prefix="storage") as readers:
        leases = [lease for _, lease in readers.map(newest_lease, runs_there)]
    folders = []
    for run, lease in sorted(zip(runs_there, leases, strict=True), key=lambda each: float(each[1].get("seen", 0.0))):
        name = run.url.rpartition("/")[2]
        copy = _place("copies", run.url)
        with _cache_explained(copy):
            for file in SMALL[:2]:
                _write(copy / file, contents.get(f"{name}/{file}"))
            folders.append(_described(copy, run.url, lease))
    return folders


@contextmanager
def kept_fresh(url: str) -> Iterator[Callable[[], None]]:
    """Meanwhile a thread keeps the copy of a run up to date; what is yielded does so for the last time."""
    storage, over = Storage(url), threading.Event()

    def refresh() -> None:
        with suppress(FootplateError):  # a full cache is no more the run's end than a storage that is silent
            _refreshed(storage)

    def keep() -> None:
        while not over.wait(SECONDS_BETWEEN_REFRESHES):
            refresh()

    keeper = threading.Thread(target=keep, name="copy", daemon=True)
    keeper.start()

    def refresh_at_last() -> None:
        over.set()
        keeper.join()
        refresh()

    try:
        yield refresh_at_last
    finally:
        over.set()


@contextmanager
def trained_here(
    url: str, say: Callable[[str], None] = say_if_heard, *, shared: bool = False, patience_seconds: float = 0.0
) -> Iterator[RunFolder]:
    """The folder in which this process may train the run, as the run is now; it is mirrored, and up at the end.

    Where nobody has trained the run elsewhere since this machine did, the folder goes on as it is: it may have more
    than the storage. Else it becomes what the storage has. With `shared`, what it has is up before this returns, for
    workers elsewhere. Another process of this machine that trains the run has so many seconds to end. Raises
    FootplateError where it does not, or another machine trains the run, TrainingError where in the end not all is up,
    StorageError where the storage does not answer at the start.
    """
    storage = Storage(url)
    storage.check()
    place = _place("runs", url)
    with _alone(place, patience_seconds):
        lease = Lease(storage, _session(place))
        goes_on = lease.take(say)
        folder = RunFolder(place)
        try:
            with _cache_explained(place):
                folder.stop.unlink(missing_ok=True)  # of an earlier day
                # From here on: fetching may take longer than a lease lasts.
                lease.keep(lambda reason: _write(folder.stop, reason.encode()))
                if not goes_on:
                    _fetch(storage, place, lease.session)
            lease.require()
            mirror = Mirror(folder, storage, lease)
            if shared and goes_on:
                mirror.bring_up()
        except BaseException:
            with suppress(StorageError):
                lease.release()
            raise
        mirror.start()
        try:
            yield folder
        except KeyboardInterrupt:  # the second one: nothing is waited for
            raise
        except BaseException:
            with _said(say):
                mirror.finish(say)
            raise
        else:
            mirror.finish(say)
        finally:
            with suppress(StorageError):
                lease.release()


@contextmanager
def _said(say: Callable[[str], None]) -> Iterator[None]:
    """What is not up must not hide why the run failed."""
    try:
        yield
    except TrainingError as unsent:
        say(str(unsent))


def helped_here(url: str) -> RunFolder:
    """The folder for a worker that is not the first: it holds the run's checkpoints, which come when they are read.

    On the machine of the first worker it is the same folder, and stays as it is. Raises StorageError.
    """
    storage = Storage(url)
    place = _place("runs", url)
    if _is_held(place):
        return RunFolder(place)
    helper = _place("helpers", url)
    helper.mkdir(parents=True, exist_ok=True)
    with _alone(helper, math.inf):
        _fetch_checkpoints(storage, helper)
        _write(helper / "job.yaml", storage.read("job.yaml"))
        _write_origin(helper, url)
    return RunFolder(helper)


def bring_down(place: Path) -> None:
    """Bring the files of a checkpoint that is still elsewhere, each compared with the manifest.

    Raises CheckpointError where the storage has other bytes than were written, StorageError where it fails.
    """
    with _cache_explained(place), _alone(place.parent.parent / ".bringing", math.inf):
        try:
            storage = Storage((place / ELSEWHERE).read_text("utf-8"))
            manifest = json.loads((place / MANIFEST).read_text("utf-8"))
            check_names(manifest)
            wanted = [(place / name, entry["sha256"]) for name, entry in manifest["files"].items()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # another process has brought them, or the manifest is damaged, which who reads it says
        folder = place.parent / SEGMENTS
        wanted += [(folder / name, name) for name in manifest.get("segments", {})]
        for path, sha256 in wanted:
            if path.is_file() and digest(path) == sha256:
                continue
            source = storage if path.parent == place else Storage(f"{storage.url.rpartition('/')[0]}/{SEGMENTS}")
            try:
                source.download(path.name, path)
            except StorageError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    raise CheckpointError(
                        f"{source.url}/{path.name}: is missing; this checkpoint cannot be used"
                    ) from error
                raise
            if digest(path) != sha256:
                path.unlink()
                raise CheckpointError(
                    f"{source.url}/{path.name}: is damaged (its bytes are not those that were written); "
                    "this checkpoint cannot be used"
                )
        (place / ELSEWHERE).unlink()


def bring_up_evaluations(folder: RunFolder) -> None:
    """Bring up what an evaluation has left in the copy of a run. Raises StorageError."""
    if folder.url is not None and (folder.path / "evaluations").is_dir():
        storage = Storage(folder.url)
        there = storage.sizes("evaluations")
        for path in sorted((folder.path / "evaluations").rglob("*")):
            name = path.relative_to(folder.path).as_posix()
            if path.is_file() and there.get(name) != path.stat().st_size:
                storage.upload(path, name)


def _refreshed(storage: Storage) -> RunFolder | None:
    """The copy of a run, brought up to date; None where there is no run."""
    copy = _place("copies", storage.url)
    with _cache_explained(copy), _alone(copy, math.inf):
        if not _fetch_small(storage, copy):
            return None
        _fetch_checkpoints(storage, copy)
        names = [name for name, size in storage.sizes("evaluations").items() if _size(copy / name) != size]
        for name, content in storage.read_all(names).items():
            _write(copy / name, content)
        return _described(copy, storage.url, newest_lease(storage)[1])


def _fetch(storage: Storage, place: Path, session: str) -> None:
    """Make a folder what the storage has. Cut off, it belongs to nobody, and this is done again."""
    (place / ORIGIN).unlink(missing_ok=True)
    for path in place.iterdir() if place.exists() else ():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if not _fetch_small(storage, place):
        raise FootplateError(f"{storage.url}: there is no run; `footplate runs` lists what there is")
    _fetch_checkpoints(storage, place)
    _write_origin(place, storage.url, session)


def _fetch_small(storage: Storage, place: Path) -> bool:
    """Everything but checkpoints and media; whether there is a job."""
    small = storage.read_all(SMALL)
    if "job.yaml" not in small:
        return False
    for folder, name in GROWING.items():
        _grow(place / name, b"".join(content for _, content in read_pieces(storage, folder)))
    for name in SMALL:
        _write(place / name, small.get(name))
    return True


def _fetch_checkpoints(storage: Storage, place: Path) -> None:
    """The manifests of all checkpoints; their files come when they are read."""
    names = [name for name in storage.sizes("checkpoints") if name.endswith(f"/{MANIFEST}")]
    found = {name.split("/")[1]: content for name, content in storage.read_all(names).items()}
    folder = place / "checkpoints"
    for path in folder.glob("[0-9]*"):
        if not (path / MANIFEST).is_file() or found.get(path.name) != (path / MANIFEST).read_bytes():
            shutil.rmtree(path)
    for name, manifest in found.items():
        if not (folder / name).exists():
            beside = folder / f".writing-{name}-{os.getpid()}"
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            (beside / MANIFEST).write_bytes(manifest)
            (beside / ELSEWHERE).write_text(f"{storage.url}/checkpoints/{name}", encoding="utf-8")
            with suppress(OSError):  # another process was faster
                beside.rename(folder / name)


def _described(copy: Path, url: str, lease: dict[str, Any]) -> RunFolder:
    _write(copy / LEASE, json.dumps(lease).encode())
    _write_origin(copy, url)
    return RunFolder(copy)


def _write_origin(place: Path, url: str, session: str | None = None) -> None:
    _write(place / ORIGIN, json.dumps({"url": url, "session": session}).encode())


def _session(place: Path) -> str | None:
    try:
        session = json.loads((place / ORIGIN).read_text("utf-8"))["session"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return session if isinstance(session, str) else None


def _grow(path: Path, content: bytes) -> None:
    """Append what is new, so that whoever follows the file sees it as it grows; other content replaces it."""
    there = path.read_bytes() if path.exists() else b""
    if there and content.startswith(there):
        with path.open("ab") as file:
            file.write(content[len(there) :])
    elif there != content or not path.exists():
        _write(path, content or None)


def _write(path: Path, content: bytes | None) -> None:
    """A file appears whole; None removes it."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
    beside.write_bytes(content)
    beside.replace(path)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _place(kind: str, url: str) -> Path:
    around, _, name = url.rstrip("/").rpartition("/")
    cache = Path(os.environ.get("FOOTPLATE_CACHE") or Path.home() / ".cache" / "footplate").absolute()
    return cache / kind / hashlib.sha256(around.encode()).hexdigest()[:16] / name


@contextmanager
def _alone(place: Path, patience_seconds: float) -> Iterator[None]:
    """Hold a place against all others of this machine. Raises FootplateError where it stays held for so long."""
    with _cache_explained(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        file = _lock_of(place).open("a")
    with file:
        end = time.monotonic() + patience_seconds
        while not _locked(file):
            if time.monotonic() >= end:
                raise FootplateError(f"{place}: this run is being trained by another process; stop that one first")
            time.sleep(SECONDS_BETWEEN_TRIES)
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _cache_explained(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FootplateError(
            f"{place}: cannot be written ({error.strerror or error}); "
            "make room, or set FOOTPLATE_CACHE to another folder"
        ) from error


def _is_held(place: Path) -> bool:
    try:
        with _lock_of(place).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _lock_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.lock")
