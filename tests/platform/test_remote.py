"""A run at a URL is the run that it would be in a folder: here, on another machine, and whatever the storage does."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import check_equal

from footplate import lease, mirror, remote
from footplate.checkpoint import CheckpointStore
from footplate.errors import FootplateError, TrainingError
from footplate.execution import local_context, run
from footplate.folder import RunFolder, create_run, open_run
from footplate.job import Job, load_job
from footplate.launch import kept_fresh, launch, newest_checkpoint, trained_here
from footplate.runs import list_runs
from footplate.storage import Storage

HERE = Path(__file__).parent
sys.path.append(str(HERE))
from shaky_storage import ShakyFileSystem  # noqa: E402

RUNS = "shaky://bucket/runs"
URL = f"{RUNS}/run"


@pytest.fixture(autouse=True)
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Short waits, an empty storage, and a machine without a cache: `elsewhere` is another one."""
    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_PASSES", 0.01)
    monkeypatch.setattr(mirror, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(lease, "RENEWAL_SECONDS", 0.2)
    monkeypatch.setenv("FOOTPLATE_CACHE", str(tmp_path / "machine"))
    ShakyFileSystem.reset()
    yield tmp_path
    ShakyFileSystem.reset()


@pytest.fixture
def elsewhere(machines: Path) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    recipe = tmp_path_factory.mktemp("recipe") / "line.yaml"
    recipe.write_text(
        f"task: {HERE / 'line_task.py'}\nthreads: 1\nupdates: 20\n"
        "best: {metric: eval/error, better: lower}\nevaluate: {every_updates: 5}\n"
    )
    return load_job(recipe)


@pytest.fixture(scope="module")
def through(job: Job, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = create_run(tmp_path_factory.mktemp("through"), "through", "line")
    launch(job, folder)
    return folder


def created(job: Job) -> RunFolder:
    folder = create_run(RUNS, "run", "line")
    folder.write_job(job.to_yaml())
    return folder


def cut(job: Job, update: int) -> None:
    """Train until an update, then end: no other mirror pass, as if the machine had lost its power after the last."""
    with trained_here(open_run(URL, "")) as folder:
        for step in run(job, local_context(job, folder.path, newest_checkpoint(folder, print))):
            if step.activity is None and step.update == update:
                break


def test_a_run_at_a_url_is_the_run_that_it_would_be_in_a_folder(job: Job, through: RunFolder) -> None:
    folder = created(job)
    launch(job, folder)
    copy = folder.refreshed()
    check_equal(through, copy)
    assert copy.url == URL
    assert copy.read_status()["state"] == "finished"
    names = {name.split("/")[0] for name in Storage(URL).sizes()}
    assert names == {"job.yaml", "status.json", "metrics", "log", "checkpoints", "samples", "lease"}
    assert CheckpointStore(copy.checkpoints).updates() == CheckpointStore(through.checkpoints).updates()


@pytest.mark.parametrize("moves", [False, True], ids=["here", "elsewhere"])
def test_a_run_that_was_cut_goes_on_to_the_same_bytes(
    job: Job, through: RunFolder, elsewhere: pytest.MonkeyPatch, machines: Path, moves: bool
) -> None:
    created(job)
    for place, update in enumerate((7, 13)):
        cut(job, update)
        if moves:
            elsewhere.setenv("FOOTPLATE_CACHE", str(machines / f"machine-{place}"))
    launch(job, open_run(URL, ""))
    elsewhere.setenv("FOOTPLATE_CACHE", str(machines / "reader"))
    check_equal(through, open_run(URL, ""))


def test_a_lease_is_kept_while_the_run_is_fetched_and_a_request_to_stop_is_heard(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    created(job)
    fetch_checkpoints = remote._fetch_checkpoints

    def slowly(storage: Storage, place: Path) -> None:
        remote.ask_to_stop(URL, "enough")
        end = time.monotonic() + 60
        while not (place / "stop").exists() and time.monotonic() < end:
            time.sleep(0.01)
        fetch_checkpoints(storage, place)

    monkeypatch.setattr(remote, "_fetch_checkpoints", slowly)
    with remote.trained_here(URL) as folder:
        assert lease.newest_lease(Storage(URL))[1]["beats"] > 0
        assert folder.stop.read_text() == "enough"
        assert folder.url == URL


def test_two_machines_never_train_one_run(job: Job, elsewhere: pytest.MonkeyPatch, machines: Path) -> None:
    folder = created(job)
    with trained_here(folder):
        with pytest.raises(FootplateError) as raised:
            launch(job, folder)
        assert str(raised.value).endswith("/run: this run is being trained by another process; stop that one first")
        elsewhere.setenv("FOOTPLATE_CACHE", str(machines / "other"))
        with pytest.raises(FootplateError) as raised:
            launch(job, open_run(URL, ""))
        assert str(raised.value).startswith(f"{URL}: this run is being trained on ")


def test_a_storage_that_fails_for_a_while_is_said_once_and_training_goes_on(
    job: Job, through: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = created(job)
    with trained_here(folder) as here:
        for step in run(job, local_context(job, here.path)):
            if step.update == 3:
                ShakyFileSystem.calls_left = 0
            if step.update == 20:
                ShakyFileSystem.calls_left = None
    check_equal(through, folder.refreshed())


def test_a_run_whose_storage_does_not_come_back_ends_in_a_line_and_resume_brings_the_rest_up(
    job: Job, through: RunFolder, machines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = created(job)
    with pytest.raises(TrainingError) as raised, trained_here(folder) as here:  # noqa: PT012 - it ends in its end
        for step in run(job, local_context(job, here.path)):
            if step.update == 3:
                ShakyFileSystem.calls_left = 0
    failure = f"{URL}: does not answer as it should (the network is down)"
    assert str(raised.value).endswith(
        f"; it has no checkpoint, {here.path} has the rest, and `footplate resume {URL}` here brings it up"
    )
    assert here.read_status()["state"] == "finished"
    captured = capsys.readouterr()
    said = [line for line in (captured.out + captured.err).splitlines() if "is tried again" in line]
    assert len(said) == 1
    assert said[0].endswith("(the network is down); training goes on, the upload is tried again until it works")
    assert failure.partition(": ")[2] in str(raised.value)

    ShakyFileSystem.calls_left = None
    launch(job, open_run(URL, ""))
    check_equal(through, open_run(URL, ""))
    assert open_run(URL, "").read_status()["state"] == "finished"


def test_a_run_that_another_machine_has_gone_on_with_is_taken_from_the_storage(
    job: Job, through: RunFolder, elsewhere: pytest.MonkeyPatch, machines: Path
) -> None:
    created(job)
    cut(job, 7)
    elsewhere.setenv("FOOTPLATE_CACHE", str(machines / "other"))
    cut(job, 13)
    elsewhere.setenv("FOOTPLATE_CACHE", str(machines / "machine"))
    with trained_here(open_run(URL, "")) as folder:
        assert CheckpointStore(folder.checkpoints).updates() == [5, 10]
    launch(job, open_run(URL, ""))
    check_equal(through, open_run(URL, ""))


def test_a_damaged_file_at_the_url_is_named_and_the_checkpoint_before_is_used(
    job: Job, through: RunFolder, elsewhere: pytest.MonkeyPatch, machines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    created(job)
    cut(job, 13)
    Storage(URL).write("checkpoints/000010/update.pt", b"other bytes")
    elsewhere.setenv("FOOTPLATE_CACHE", str(machines / "other"))
    capsys.readouterr()
    launch(job, open_run(URL, ""))
    assert capsys.readouterr().out.splitlines()[0] == (
        f"{URL}/checkpoints/000010/update.pt: is damaged (its bytes are not those that were written); "
        "this checkpoint cannot be used; trying the one before"
    )
    check_equal(through, open_run(URL, ""))


def test_a_storage_that_fails_while_a_checkpoint_is_fetched_starts_nothing_over(
    job: Job, through: RunFolder, elsewhere: pytest.MonkeyPatch, machines: Path
) -> None:
    created(job)
    cut(job, 13)
    elsewhere.setenv("FOOTPLATE_CACHE", str(machines / "other"))
    with trained_here(open_run(URL, "")) as folder:
        ShakyFileSystem.calls_left = 0
        with pytest.raises(FootplateError) as raised:
            newest_checkpoint(folder, print)
        ShakyFileSystem.calls_left = None
    assert "does not answer as it should" in str(raised.value)
    launch(job, open_run(URL, ""))
    check_equal(through, open_run(URL, ""))


def test_names_at_a_url_are_numbered_and_those_that_are_taken_refused(job: Job) -> None:
    assert [create_run(RUNS, None, "line").name for _ in range(3)] == ["line", "line-2", "line-3"]
    with pytest.raises(FootplateError) as raised:
        create_run(RUNS, "line", "x")
    assert str(raised.value) == (
        f"{RUNS}/line: a run of this name exists; choose another --name, or `footplate resume {RUNS}/line`"
    )
    created(job).remove()
    assert Storage(URL).sizes() == {}


def test_unknown_runs_at_a_url_are_refused() -> None:
    for run_, runs, problem in (
        (URL, "runs", f"{URL}: no such run; `footplate runs --runs {RUNS}` lists what is there"),
        ("mine", RUNS, f"mine: no such run under {RUNS} (and no such folder with a job.yaml); "
                       f"`footplate runs --runs {RUNS}` lists them"),
    ):  # fmt: skip
        with pytest.raises(FootplateError) as raised:
            open_run(run_, runs)
        assert str(raised.value) == problem


def test_runs_at_a_url_are_listed_the_last_trained_last(job: Job) -> None:
    for name in ("b", "a"):
        folder = create_run(RUNS, name, "line")
        folder.write_job(job.to_yaml())
        launch(job, folder)
    assert [row[0] for row in list_runs(RUNS)] == ["b", "a"]
    assert [row[2:4] for row in list_runs(RUNS)] == [("finished", "20/20")] * 2
    with trained_here(open_run("b", RUNS)) as here:
        here.write_status({"state": "running", "update": 3})
        here.job.touch()
    assert list_runs(RUNS)[-1][:4] == ("b", str(job.task), "killed", "3")


def test_a_cache_that_cannot_be_written_is_one_line(job: Job, elsewhere: pytest.MonkeyPatch, machines: Path) -> None:
    created(job)
    (machines / "file").write_text("")
    elsewhere.setenv("FOOTPLATE_CACHE", str(machines / "file"))
    with pytest.raises(FootplateError) as raised:
        open_run(URL, "")
    assert str(raised.value).startswith(f"{machines / 'file' / 'copies'}/")
    assert str(raised.value).endswith(
        "/run: cannot be written (Not a directory); make room, or set FOOTPLATE_CACHE to another folder"
    )


def test_a_cache_that_cannot_be_written_takes_no_name(elsewhere: pytest.MonkeyPatch, machines: Path) -> None:
    (machines / "file").write_text("")
    elsewhere.setenv("FOOTPLATE_CACHE", str(machines / "file"))
    with pytest.raises(FootplateError, match="cannot be written"):
        create_run(RUNS, "run", "line")
    elsewhere.setenv("FOOTPLATE_CACHE", str(machines / "mended"))
    assert create_run(RUNS, "run", "line").url == URL


def test_a_cache_that_fails_while_a_run_is_followed_does_not_end_that(
    job: Job, elsewhere: pytest.MonkeyPatch, machines: Path
) -> None:
    folder = created(job)
    (machines / "file").write_text("")
    with kept_fresh(folder) as refresh:
        elsewhere.setenv("FOOTPLATE_CACHE", str(machines / "file"))
        refresh()


def test_a_helper_elsewhere_has_the_checkpoints_and_one_here_the_same_folder(
    job: Job, elsewhere: pytest.MonkeyPatch, machines: Path
) -> None:
    created(job)
    cut(job, 13)
    with remote.trained_here(URL, shared=True) as here:
        assert remote.helped_here(URL).path == here.path
        elsewhere.setenv("FOOTPLATE_CACHE", str(machines / "other"))
        helper = remote.helped_here(URL)
        assert helper.path != here.path
        manifests = [CheckpointStore(folder.checkpoints).at(10).manifest for folder in (helper, here)]
        assert manifests[0] == manifests[1]
        shutil.rmtree(machines / "other")


def test_what_is_not_up_does_not_hide_why_a_run_failed(
    job: Job, capsys: pytest.CaptureFixture[str], machines: Path
) -> None:
    folder = created(job)
    with pytest.raises(ValueError, match="the line broke"), trained_here(folder):  # noqa: PT012
        ShakyFileSystem.calls_left = 0
        raise ValueError("the line broke")
    assert "`footplate resume shaky://bucket/runs/run` here brings it up" in capsys.readouterr().out


def test_a_request_to_stop_reaches_whoever_trains_the_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("footplate.record.SECONDS_BETWEEN_LOOKS", 0.0)
    folder = created(job)
    with trained_here(folder) as here:
        for step in run(job, local_context(job, here.path)):
            if step.update == 3 and step.activity is None:
                folder.ask_to_stop("enough")
                deadline = time.monotonic() + 60
                while not here.stop.exists() and time.monotonic() < deadline:
                    time.sleep(0.01)
    status = folder.refreshed().read_status()
    assert (status["state"], status["update"], status["reason"]) == ("stopped", 4, "enough")


@pytest.mark.slow
def test_a_run_that_is_killed_here_and_there_ends_with_the_same_bytes_and_rows(
    machines: Path, elsewhere: pytest.MonkeyPatch
) -> None:
    chance = random.Random(5)
    recipe = machines / "line.yaml"
    recipe.write_text(
        f"task: {HERE / 'line_task.py'}\nthreads: 1\nupdates: 2000\nevaluate: {{every_updates: 500}}\n"
        "save: {every_updates: 20}\n"
    )
    bucket = machines / "bucket"
    url = f"file://{bucket}/run"
    through = create_run(machines, "through", "line")
    launch(load_job(recipe), through)

    def newest() -> float:
        return max((path.stat().st_mtime for path in (bucket / "run").glob("metrics/0*")), default=0.0)

    command, kills = ["train", str(recipe), "--runs", f"file://{bucket}", "--name", "run"], 0
    for machine in (0, 1, 0):
        elsewhere.setenv("FOOTPLATE_CACHE", str(machines / f"machine-{machine}"))
        before = newest()
        with subprocess.Popen(
            [sys.executable, str(HERE / "url_trainer.py"), *command], stdout=subprocess.DEVNULL
        ) as one:
            while newest() == before and one.poll() is None:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.3))
            one.kill()
        kills += one.returncode == -signal.SIGKILL
        command = ["resume", url]
    assert kills == 3
    elsewhere.setenv("FOOTPLATE_CACHE", str(machines / "last"))
    last = subprocess.run([sys.executable, str(HERE / "url_trainer.py"), *command], capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    elsewhere.setenv("FOOTPLATE_CACHE", str(machines / "reader"))
    check_equal(through, open_run(url, ""))
