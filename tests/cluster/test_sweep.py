"""Sweeps on Ray: trials are runs like any other, whatever happens to the sweep around them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from footplate.checkpoint import CheckpointStore
from footplate.errors import FootplateError
from footplate.folder import RunFolder, create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate.sweeps.folder import SweepFolder
from footplate.sweeps.launch import resume_sweep, start_sweep
from footplate.sweeps.plan import load_sweep

pytestmark = [pytest.mark.ray, pytest.mark.machines]

KEY = "0123456789abcdef" * 2 + "01234567"
LINE_TASK = Path(__file__).parents[1] / "platform" / "line_task.py"
LINE = f"""
task: {LINE_TASK}
best: {{metric: eval/error, better: lower}}
optimizer: {{kind: sgd, learning_rate: 0.1}}
track: {{wandb: {{mode: offline}}}}
"""
RATES = """
recipe: line.yaml
space: {optimizer.learning_rate: [0.1, 0.01, 0.0001], fail_at: [null, 3]}
search: {kind: grid}
scheduler: {kind: asha, grace_updates: 5, reduction_factor: 2}
concurrent: 1
"""
COPY = """
recipe: copy-transformer
overrides:
  corpus: {symbols: 5, longest: 5, train_pairs: 200, valid_pairs: 8}
  model: {width: 16, feed_forward_width: 16, heads: 2}
  batch_tokens: 200
  evaluate: {every_updates: 50, search: {length: {factor: 1, extra: 2}}}
  updates: 150
  save.every_updates: 10
space: {seed: [1, 2, 3, 4]}
search: {kind: grid}
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two cores for all of the tests here."""
    import ray

    from footplate_cluster.connection import connected

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WANDB_API_KEY", KEY)  # the workers inherit it, as from a cluster's own environment
        with connected(None):
            yield ray.get_runtime_context().gcs_address


def folder_of(sweep: Path, number: int) -> RunFolder:
    [path] = sweep.glob(f"{number}-*")
    return RunFolder(path)


@pytest.mark.slow
def test_trials_finish_fail_or_are_stopped_and_the_sweep_goes_on(
    address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "line.yaml").write_text(LINE)
    (tmp_path / "rates.yaml").write_text(RATES)
    start_sweep(load_sweep(str(tmp_path / "rates.yaml")), None, tmp_path)
    sweep = SweepFolder(tmp_path / "rates")
    states = [standing.state for standing in sweep.standings()]
    assert states == ["finished", "failed", "halved", "failed", "halved", "failed"]
    output = capfd.readouterr()
    assert "trial 2 failed after 2 updates (0:00): ValueError: the line broke" in output.out
    assert "trial 3 stopped by ASHA after 6 updates" in output.out
    assert "rates: 6 trials, 1 finished, 2 stopped by ASHA, 3 failed; best " in output.out
    assert not [word for word in ("ray", "Tune", "Traceback") if word in output.out + output.err]
    assert {"sweep.yaml", "sweep.json", "sweep.csv", "sweep.png"} <= {path.name for path in sweep.path.iterdir()}
    assert not (sweep.path / "ray").exists()

    # W&B: a run for each trial, which keeps its id when the trial goes on; the key is nowhere.
    failed = folder_of(sweep.path, 2)
    identity = json.loads((failed.path / "wandb.json").read_text())
    finished = folder_of(sweep.path, 1).status.stat().st_mtime_ns
    (tmp_path / "line.yaml").unlink()  # the trials have their own jobs
    resume_sweep(sweep)
    assert "rates: 3 of 6 trials to run, 1 at a time" in capfd.readouterr().out
    assert json.loads((failed.path / "wandb.json").read_text()) == identity
    assert folder_of(sweep.path, 1).status.stat().st_mtime_ns == finished
    written = [path for path in sweep.path.rglob("*") if path.is_file()]
    assert len([path for path in written if path.suffix == ".wandb"]) == 6 + 3
    records = [path.read_bytes() for path in written if path.suffix == ".wandb"]
    assert all(b"--cluster-id" not in record and b"--gcs-address" not in record for record in records)
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_a_sweep_that_is_stopped_and_killed_goes_on_to_the_same_bytes(address: str, tmp_path: Path) -> None:
    (tmp_path / "copy.yaml").write_text(COPY)
    through = create_run(tmp_path, "through", "copy")
    sweep, command = tmp_path / "copy", [sys.executable, "-m", "footplate"]
    job = load_sweep(str(tmp_path / "copy.yaml")).jobs[2]

    start = [*command, "sweep", str(tmp_path / "copy.yaml"), "--runs", str(tmp_path), "--address", address]
    process = started(start)
    wait_until(process, lambda: sweep.exists() and reached(sweep, 1) > 0)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert f"  go on       footplate resume {sweep}" in output
    assert "Traceback" not in output
    stopped = SweepFolder(sweep).standings()
    assert {standing.state for standing in stopped} <= {"stopped", "waiting", "finished"}
    assert all(
        CheckpointStore(standing.folder.checkpoints).updates()[-1] == standing.update
        for standing in stopped
        if standing.state == "stopped"
    )

    process = started([*command, "resume", str(sweep)])
    wait_until(process, lambda: reached(sweep, 3) > 20)
    process.kill()
    process.communicate(timeout=300)
    deadline = time.monotonic() + 120
    while any(standing.state == "running" for standing in SweepFolder(sweep).standings()):
        assert time.monotonic() < deadline, "the trials outlive their driver"
        time.sleep(0.2)
    assert "finished" in {standing.state for standing in SweepFolder(sweep).standings()}

    resume_sweep(SweepFolder(sweep))
    assert {standing.state for standing in SweepFolder(sweep).standings()} == {"finished"}
    third = folder_of(sweep, 3)
    through.write_job(job.model_copy(update={"threads": 1}).to_yaml())
    launch(load_job(through.job), through)
    last = Path("checkpoints", "000150", "model.safetensors")
    assert (third.path / last).read_bytes() == (through.path / last).read_bytes()


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_goes_on_in_another(
    address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import threading

    text = COPY.replace("[1, 2, 3, 4]", "[1]").replace("updates: 150", "updates: 400")
    (tmp_path / "copy.yaml").write_text(text)

    def kill() -> None:
        deadline = time.monotonic() + 200
        while reached(tmp_path / "copy", 1) < 30 and time.monotonic() < deadline:
            time.sleep(0.05)
        for path in Path("/proc").glob("[0-9]*"):
            if is_a_trial_of_ours(path):
                os.kill(int(path.name), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    start_sweep(load_sweep(str(tmp_path / "copy.yaml")), None, tmp_path)
    killer.join()
    output = capfd.readouterr().out
    assert "trial 1 lost its worker process, and goes on from its newest checkpoint in another" in output
    assert [standing.state for standing in SweepFolder(tmp_path / "copy").standings()] == ["finished"]


def test_a_machine_that_does_not_see_the_sweep_ends_it_in_a_line(
    address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copy.yaml").write_text(COPY)
    monkeypatch.setattr("footplate_cluster.tuning.write_marker", lambda folder, token: None)
    with pytest.raises(FootplateError) as raised:
        start_sweep(load_sweep(str(tmp_path / "copy.yaml"), ["concurrent=1"]), None, tmp_path)
    assert str(raised.value) == (
        f"{tmp_path / 'copy'}: on {socket.gethostname()} this is not the sweep's folder that the driver sees; "
        "give --runs a folder on a disk that all machines of the cluster share"
    )
    assert capfd.readouterr().out.splitlines()[1:] == ["trial 1 starts: seed 1"]
    assert not (tmp_path / "copy").exists()


def test_a_trial_that_the_cluster_has_no_room_for_is_refused_and_leaves_nothing(address: str, tmp_path: Path) -> None:
    (tmp_path / "copy.yaml").write_text(COPY)
    with pytest.raises(FootplateError) as raised:
        start_sweep(load_sweep(str(tmp_path / "copy.yaml"), ["resources.cpus=64"]), None, tmp_path)
    assert str(raised.value) == (
        f"resources: a trial needs 64 CPU on one node, and the cluster's nodes have {os.cpu_count()} CPU; "
        "ask for less with resources.cpus or resources.gpus"
    )
    assert not (tmp_path / "copy").exists()


def started(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def reached(sweep: Path, number: int) -> int:
    found = list(sweep.glob(f"{number}-*"))
    return int(RunFolder(found[0]).read_status()["update"]) if found else 0


def wait_until(process: "subprocess.Popen[str]", is_so: object) -> None:
    assert callable(is_so)
    deadline = time.monotonic() + 300
    while not is_so():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the sweep did not get so far"
        time.sleep(0.05)


def is_a_trial_of_ours(process: Path) -> bool:
    """Whether this is the process of a trial that was started from this session."""
    try:
        title = (process / "cmdline").read_bytes()
        return title.startswith(b"ray::ImplicitFunc") and os.getsid(int(process.name)) == os.getsid(0)
    except (OSError, ProcessLookupError):
        return False
