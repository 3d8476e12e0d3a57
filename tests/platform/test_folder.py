"""Run folders: their names, their lock, and what their status says."""

import errno
import fcntl
import multiprocessing
import threading
from pathlib import Path

import pytest

from footplate.errors import FootplateError
from footplate.folder import RunFolder, create_run, open_run, stop_reason


def test_without_a_name_runs_are_numbered_after_their_recipe(tmp_path: Path) -> None:
    assert [create_run(tmp_path, None, "copy").name for _ in range(3)] == ["copy", "copy-2", "copy-3"]


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    create_run(tmp_path, "mine", "copy")
    with pytest.raises(FootplateError) as raised:
        create_run(tmp_path, "mine", "copy")
    assert str(raised.value) == (
        f"{tmp_path / 'mine'}: a run of this name exists; "
        f"choose another --name, or `footplate resume {tmp_path / 'mine'}`"
    )


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "a\nb"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FootplateError) as raised:
        create_run(tmp_path, name, "copy")
    assert str(raised.value) == (
        f"--name: {name!r} is not a plain folder name; choose one without slashes, control characters or a leading dot"
    )


def test_a_runs_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FootplateError) as raised:
        create_run(tmp_path / "file", None, "copy")
    assert str(raised.value) == (
        f"{tmp_path / 'file' / 'copy'}: cannot be made (Not a directory); choose another folder with --runs"
    )


def test_a_run_opens_by_name_and_by_path(tmp_path: Path) -> None:
    folder = create_run(tmp_path, "mine", "copy")
    folder.job.write_text("task: x\n")
    assert open_run("mine", tmp_path).path == folder.path
    assert open_run(folder.path, Path("elsewhere")).path == folder.path


def test_an_unknown_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FootplateError) as raised:
        open_run("mine", tmp_path)
    assert str(raised.value) == (
        f"mine: no such run under {tmp_path} (and no such folder with a job.yaml); `footplate runs` lists them"
    )


def test_a_status_that_says_running_while_nobody_holds_the_lock_is_a_killed_run(tmp_path: Path) -> None:
    folder = create_run(tmp_path, "mine", "copy")
    with folder.lock():
        folder.write_status({"state": "running", "update": 3})
        assert folder.read_status()["state"] == "running"
    assert folder.read_status() == {"state": "killed", "update": 3}


def test_a_failure_that_somebody_else_writes_leaves_how_far_the_run_had_come(tmp_path: Path) -> None:
    folder = create_run(tmp_path, "mine", "copy")
    best = {"metric": "eval/loss", "value": 0.5}
    folder.write_status({"state": "failed", "error": "an earlier one", "update": 40, "updates": 50, "best": best})
    folder.write_failure("its process died")
    status = folder.read_status()
    assert (status["state"], status["error"]) == ("failed", "its process died")
    assert (status["update"], status["updates"], status["best"]) == (40, 50, best)


def test_a_request_to_stop_without_a_reason_is_one_too(tmp_path: Path) -> None:
    folder = create_run(tmp_path, "mine", "copy")
    assert stop_reason(folder.stop) is None
    folder.stop.write_text("")
    assert stop_reason(folder.stop) == "asked to stop"
    folder.ask_to_stop("enough\n")
    assert stop_reason(folder.stop) == "enough"


def _hold(path: Path, held: "multiprocessing.synchronize.Event", release: "multiprocessing.synchronize.Event") -> None:
    with RunFolder(path).lock():
        held.set()
        release.wait(60)


def test_two_processes_never_train_one_run(tmp_path: Path) -> None:
    folder = create_run(tmp_path, "mine", "copy")
    spawn = multiprocessing.get_context("spawn")
    held, release = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_hold, args=(folder.path, held, release))
    other.start()
    try:
        assert held.wait(60)
        assert folder.is_locked()
        with pytest.raises(FootplateError) as raised, folder.lock():
            pass
        assert str(raised.value) == f"{folder.path}: this run is being trained by another process; stop that one first"
    finally:
        release.set()
        other.join()


def test_whoever_looks_whether_a_run_is_locked_does_not_keep_it_from_being_trained(tmp_path: Path) -> None:
    folder = create_run(tmp_path, "mine", "copy")
    with (folder.path / "lock").open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        over = threading.Timer(0.1, lambda: fcntl.flock(looking, fcntl.LOCK_UN))
        over.start()
        with folder.lock():
            pass
        over.join()


def test_a_disk_without_locks_is_named_and_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    folder = create_run(tmp_path, "mine", "copy")
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(FootplateError) as raised, folder.lock():
        pass
    assert str(raised.value) == (
        f"{folder.path}: cannot be locked (No locks available); put it on a disk that has locks"
    )
    assert not folder.is_locked()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '"x"', "{}", '{"state": "finished"}', '{"state": 1, "update": 2}', "[" * 100_000,
     '{"state": "finished", "update": "many"}', '{"state": "finished", "update": 1, "best": 5}',
     '{"state": "finished", "update": 1, "best": {"value": 1}}', '{"state": "finished", "update": NaN}',
     '{"state": "finished", "update": 1, "best": {"value": 1, "metric": 2}}',
     '{"state": "finished", "update": 1, "best": {"value": "x", "metric": "eval/loss"}}',
     f'{{"state": "finished", "update": 1, "best": {{"value": 1{"0" * 400}, "metric": "eval/loss"}}}}',
     '{"state": "finished", "update": 1, "seconds": "x"}', '{"state": "finished", "update": 1, "seconds": -Infinity}',
     '{"state": "running", "update": 1, "activity": 5}', '{"state": "running", "update": 1, "activity": {"name": "x"}}',
     '{"state": "finished", "update": true}', '{"state": "finished", "update": -1}',
     f'{{"state": "finished", "update": 1{"0" * 400}}}', '{"state": "finished", "update": 1, "updates": 2.5}'],
    ids=lambda text: text[:90] or "empty",
)  # fmt: skip
def test_a_status_that_is_none_is_unknown(tmp_path: Path, text: str) -> None:
    folder = create_run(tmp_path, "run", "copy")
    folder.status.write_text(text)
    assert folder.read_status() == {"state": "unknown", "update": 0}


def test_only_what_this_program_left_is_swept(tmp_path: Path) -> None:
    folder = create_run(tmp_path, "run", "copy")
    (folder.path / ".data-x" / "part").mkdir(parents=True)
    (folder.path / ".git").mkdir()
    (folder.path / ".link").symlink_to(tmp_path)
    for name in (".job-1", ".status-2", ".metrics.jsonl-3", ".wandb.json", ".notes"):
        (folder.path / name).touch()
    folder.sweep()
    assert sorted(path.name for path in folder.path.iterdir()) == [".git", ".link", ".notes"]
