"""Where the disk fails, the run says so in one line and goes on, or ends with nothing lost and exit code 1."""

import errno
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from kills import check_equal

from footplate.checkpoint import CheckpointStore
from footplate.errors import FootplateError, TrainingError
from footplate.execution import local_context, run
from footplate.folder import RunFolder, create_run
from footplate.job import Job, load_job
from footplate.launch import launch
from footplate.tracking.metrics_file import MetricsFile, read_rows

LINE_TASK = Path(__file__).with_name("line_task.py")


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The system refuses to write beyond so many bytes of any file, after having taken what fits: as a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def written_by_nobody(folder: Path) -> Iterator[None]:
    """A folder without permission to write."""
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(0o700)


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


def test_a_row_that_only_half_fits_on_the_disk_ends_the_run_and_is_cut_when_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    for update in (1, 2):
        metrics.row({"update": update, "train/loss": 1 / 3})
    with files_no_larger_than(100), pytest.raises(TrainingError) as raised:
        metrics.row({"update": 3, "train/loss": 1 / 3})
    metrics.close("failed")
    assert (
        str(raised.value)
        == f"{path}: cannot be written (File too large); mend that, then `footplate resume {tmp_path}`"
    )
    assert path.stat().st_size == 100  # the system took a part of the row
    metrics = MetricsFile(path)
    metrics.truncate_after(99)
    metrics.row({"update": 3, "train/loss": 0.5})
    metrics.close("finished")
    assert [row["update"] for row in read_rows(path)] == [1, 2, 3]


def test_a_disk_too_small_for_the_tokenised_corpus_is_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = create_run(tmp_path, "run", "copy")
    with files_no_larger_than(5000), pytest.raises(FootplateError) as raised:
        launch(load_job("copy-transformer", ["threads=1"]), folder)
    assert str(raised.value) == (
        f"{folder.path / 'data'}: the tokenised corpus cannot be written (File too large); "
        "make room, or use --runs on another disk"
    )
    assert [path for path in folder.path.iterdir() if "data" in path.name] == []


@pytest.fixture
def job(tmp_path: Path) -> Job:
    recipe = tmp_path / "line.yaml"
    recipe.write_text(f"task: {LINE_TASK}\nthreads: 1\nbest: {{metric: eval/error, better: lower}}\n")
    return load_job(recipe)


@pytest.fixture
def through(tmp_path: Path, job: Job) -> RunFolder:
    folder = create_run(tmp_path, "through", "line")
    launch(job, folder)
    return folder


def test_a_run_whose_checkpoints_fail_ends_and_goes_on_to_the_same_bytes(
    tmp_path: Path, job: Job, through: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create_run(tmp_path, "run", "line")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.ENOSPC))
        with pytest.raises(TrainingError) as raised:
            launch(job, folder)
    assert str(raised.value) == (
        f"{folder.checkpoints / '000015'}: could not be written (No space left on device), nor could the 2 before it; "
        f"mend that, then `footplate resume {folder.path}` starts over"
    )
    status = folder.read_status()
    assert (status["state"], status["update"], status["error"]) == ("failed", 15, f"TrainingError: {raised.value}")
    log = folder.log.read_text()
    assert f"{folder.checkpoints / '000005'}: could not be written (No space left on device); training goes on" in log
    launch(job, folder)
    check_equal(through, folder)


def test_a_run_that_cannot_save_its_end_fails_and_has_lost_nothing_else(
    tmp_path: Path, job: Job, through: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create_run(tmp_path, "run", "line")
    working, broken = os.fsync, failing(errno.EIO)

    def fsync(descriptor: int) -> None:
        (broken if (folder.checkpoints / ".writing-000020").exists() else working)(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(TrainingError) as raised:
            launch(job, folder)
    assert str(raised.value) == (
        f"{folder.checkpoints / '000020'}: could not be written (Input/output error), and the run has ended; "
        f"mend that, then `footplate resume {folder.path}` goes on from update 15"
    )
    assert (raised.value.exit_code, folder.read_status()["state"]) == (1, "failed")
    launch(job, folder)
    check_equal(through, folder)


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda content: content[:-7],
    "flipped": lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
    "empty": lambda content: b"",
    "missing": lambda content: None,
}
SAID = {
    "missing": "is missing or cannot be read; this checkpoint cannot be used",
    "manifest.json": "the manifest is missing or damaged; this checkpoint cannot be used",
}
DAMAGED = "is damaged (its bytes are not those that were written); this checkpoint cannot be used"


@pytest.mark.parametrize("file", ["line.safetensors", "update.pt", "drive.pt", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_the_run_goes_on_from_the_checkpoint_before(
    tmp_path: Path, job: Job, through: RunFolder, capsys: pytest.CaptureFixture[str], file: str, damage: str
) -> None:
    folder = create_run(tmp_path, "run", "line")
    for step in (steps := run(job, local_context(job, folder.path))):
        if step.update == 13:
            steps.close()  # type: ignore[attr-defined]
            break
    path = folder.checkpoints / "000010" / file
    after = DAMAGES[damage](path.read_bytes())
    path.unlink()
    if after is not None:
        path.write_bytes(after)
    capsys.readouterr()
    launch(job, folder)
    said = SAID.get(file) or SAID.get(damage) or DAMAGED
    assert capsys.readouterr().out.splitlines()[0] == f"{path}: {said}; trying the one before"
    check_equal(through, folder)


def test_a_run_whose_checkpoints_are_gone_says_that_it_starts_over(
    tmp_path: Path, job: Job, through: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = create_run(tmp_path, "run", "line")
    launch(job, folder)
    assert "starting over" not in capsys.readouterr().out
    shutil.rmtree(folder.checkpoints)
    launch(job, folder)
    said = f"{folder.checkpoints}: has no checkpoint to go on from; starting over"
    assert capsys.readouterr().out.splitlines()[0] == said
    check_equal(through, folder)


@pytest.mark.usefixtures("obeying_permissions")
def test_a_run_folder_that_cannot_be_written_is_one_line(tmp_path: Path, job: Job) -> None:
    folder = create_run(tmp_path, "run", "line")
    launch(job, folder)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with written_by_nobody(folder.path), pytest.raises(FootplateError) as raised:
        launch(job, folder)
    assert str(raised.value) == f"{folder.path}: cannot be written (Permission denied); make room, or make it writable"
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("obeying_permissions")
def test_a_checkpoint_folder_that_cannot_be_written_ends_the_run_with_nothing_lost(
    tmp_path: Path, job: Job, through: RunFolder
) -> None:
    folder = create_run(tmp_path, "run", "line")
    with pytest.raises(TrainingError) as raised:  # noqa: PT012 - the run ends in its last step
        for step in run(job, local_context(job, folder.path)):
            if step.update == 11:
                while not (folder.checkpoints / "000010").exists():
                    time.sleep(0.001)
                folder.checkpoints.chmod(0o500)
    folder.checkpoints.chmod(0o700)
    assert str(raised.value) == (
        f"{folder.checkpoints / '000020'}: could not be written (Permission denied), and the run has ended; "
        f"mend that, then `footplate resume {folder.path}` goes on from update 10"
    )
    launch(job, folder)
    check_equal(through, folder)


def test_a_run_whose_end_cannot_be_saved_for_whatever_reason_says_that_it_failed_and_lets_go(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(state: object, file: object) -> None:
        raise ValueError("the writer broke")

    job = job.model_copy(update={"save": job.save.model_copy(update={"every_updates": job.updates})})
    folder = create_run(tmp_path, "run", "copy")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(ValueError, match="the writer broke"):
            launch(job, folder)
    status = folder.read_status()
    assert (status["state"], status["error"]) == ("failed", "ValueError: the writer broke")
    assert "the writer broke" in folder.log.read_text()
    assert not folder.is_locked()


def test_a_status_that_cannot_be_written_is_said_once_and_training_goes_on(tmp_path: Path, job: Job) -> None:
    folder = create_run(tmp_path, "run", "line")
    for step in run(job, local_context(job, folder.path)):
        if step.update == 3:
            (folder.path / f".status-{os.getpid()}").mkdir()
    said = [line for line in folder.log.read_text().splitlines() if "status.json" in line]
    assert len(said) == 1
    assert said[0].endswith(
        f"{folder.status}: cannot be written (Is a directory); training goes on, `footplate runs` shows an older state"
    )
    assert CheckpointStore(folder.checkpoints).updates()[-1] == 20


def test_a_log_that_cannot_be_written_is_said_once_and_training_goes_on(
    tmp_path: Path, job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = create_run(tmp_path, "run", "line")
    folder.log.mkdir()
    launch(job, folder)
    said = [line for line in capsys.readouterr().out.splitlines() if "log.txt" in line]
    assert said == [
        f"log.txt: IsADirectoryError: [Errno 21] Is a directory: '{folder.log}'; "
        "this tracker is switched off, training goes on"
    ]
    assert folder.read_status()["state"] == "finished"
