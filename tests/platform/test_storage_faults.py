"""Where the disk fails, the run says so in one line and goes on, or ends with nothing lost and exit code 1."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from footplate.checkpoint import CheckpointStore
from footplate.errors import TrainingError


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The system refuses to write beyond so many bytes of any file, after having taken what fits: as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def failing(number: int) -> Callable[[int], None]:
    """A replacement of `os.fsync` on a disk with this trouble."""

    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    return fsync


def saved(store: CheckpointStore, update: int) -> None:
    store.save_files(update, {"text": lambda path: path.write_text("x" * 1000)})
    store.wait()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_is_reported_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    reports: list[str] = []
    store = CheckpointStore(tmp_path, reports.append)
    saved(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(number))
        saved(store, 2)
    assert reports == [
        f"{tmp_path / '000002'}: could not be written ({os.strerror(number)}); "
        "training goes on, the checkpoint before stays"
    ]
    assert store.updates() == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]
    saved(store, 3)
    store.close()
    assert len(reports) == 1
    newest = store.newest()
    assert newest is not None
    assert newest.update == 3


def test_the_third_failure_in_a_row_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[str] = []
    store = CheckpointStore(tmp_path / "run" / "checkpoints", reports.append)
    saved(store, 1)
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    saved(store, 2)
    saved(store, 3)
    with pytest.raises(TrainingError) as raised:
        saved(store, 4)
    assert str(raised.value) == (
        f"{tmp_path / 'run' / 'checkpoints' / '000004'}: could not be written (Input/output error), nor could the 2 "
        f"before it; mend that, then `footplate resume {tmp_path / 'run'}` goes on from update 1"
    )
    assert len(reports) == 2
    assert store.updates() == [1]


def test_a_run_does_not_end_well_without_its_last_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file in the way")
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    saved(store, 1)
    with pytest.raises(TrainingError) as raised:
        store.close()
    assert str(raised.value) == (
        f"{tmp_path / 'run' / 'checkpoints' / '000001'}: could not be written (Not a directory), and the run has "
        f"ended; mend that, then `footplate resume {tmp_path / 'run'}` starts over"
    )
