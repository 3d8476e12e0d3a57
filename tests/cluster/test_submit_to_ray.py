"""From outside to a cluster and back: what is submitted trains as it would here, and stops, and goes on.

The head has a token, its own ports and its own folder; it is started by `ray start` and ended with its process group.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kills import check_equal, kill_all_of

from footplate.cli import main
from footplate.errors import FootplateError
from footplate.folder import RunFolder
from footplate_cluster.dashboard import Dashboard

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LINE_TASK = Path(__file__).parents[1] / "platform" / "line_task.py"
LONG = ["threads=1", "updates=600", "batch_tokens=64", "evaluate.every_updates=600", "evaluate.sentences=8"]
LIFE_SECONDS = 300


def free_ports(count: int) -> list[int]:
    """Ports below those from which the system, and Ray's workers, take theirs."""
    found = []
    for port in range(23100 + os.getpid() % 4000, 32000):
        with socket.socket() as attempt, suppress(OSError):
            attempt.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The dashboard of a head that wants a token; `RAY_AUTH_TOKEN_PATH` holds it."""
    folder = Path(tempfile.mkdtemp(prefix="fp-", dir="/tmp"))  # Ray's sockets need a short path
    token = folder / "token"
    token.write_text(secrets.token_hex(16))
    token.chmod(0o600)
    gcs, dashboard, client = free_ports(3)
    python = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{python}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    del environment["PYTHONPATH"]  # what runs there came by submission
    command = [python / "ray", "start", "--head", "--block", "--dashboard-host=127.0.0.1", "--num-cpus=2"]
    options = {"port": gcs, "dashboard-port": dashboard, "ray-client-server-port": client, "temp-dir": folder}
    options |= {"object-store-memory": 100_000_000, "dashboard-agent-listen-port": 0}
    head = subprocess.Popen(
        [*command, *(f"--{name}={value}" for name, value in options.items())],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        try:
            wait_for(f"http://127.0.0.1:{dashboard}", head)
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            kill_all_of(head)
            shutil.rmtree(folder, ignore_errors=True)


def wait_for(address: str, head: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + LIFE_SECONDS
    while time.monotonic() < deadline and head.poll() is None:
        with suppress(FootplateError):
            if Dashboard(address).nodes():
                return
        time.sleep(0.5)
    raise TimeoutError(f"the head at {address} did not come up")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def footplate(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "argv", ["footplate", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def test_a_submitted_task_of_one_s_own_trains_as_it_does_here(
    address: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(LINE_TASK, here / "own_line.py")
    (here / "line.yaml").write_text("task: own_line.py\nthreads: 1\ntrack: {every_updates: 1}\n")
    assert footplate("submit", "line.yaml", "--name", "there", "--address", address, "--follow") == 0
    output = capsys.readouterr().out
    assert "own_line.py (" in output
    assert "update 20/20  eval/error 1.187" in output
    assert "there: finished after 20 updates" in output
    assert footplate("train", "line.yaml", "--name", "here") == 0
    check_equal(RunFolder(here / "runs" / "here"), RunFolder(here / "runs" / "there"))

    capsys.readouterr()
    assert footplate("submit", "line.yaml", "--name", "there", "--address", address) == 2
    assert f"{here}/runs/there: a run of this name exists" in capsys.readouterr().err
    assert footplate("resume", "there", "--address", address) == 0
    assert capsys.readouterr().out == "there: finished already, nothing to do\n"


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    address: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert footplate("submit", "copy-transformer", *LONG, "--name", "cut", "--address", address) == 0
    folder = RunFolder(here / "runs" / "cut")
    deadline = time.monotonic() + LIFE_SECONDS
    while folder.read_status()["update"] < 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    capsys.readouterr()
    assert footplate("stop", "cut", "--address", address) == 0
    update = folder.read_status()["update"]
    assert 5 <= update < 600
    output = capsys.readouterr().out
    assert f"cut: stopping after update {update}: SIGTERM\n  saved       update {update}\n" in output
    assert footplate("status", "cut") == 0
    assert capsys.readouterr().out.startswith(f"cut: stopped, update {update}/600\n")

    last = [f"--runs={here}/runs", "--address", address]
    assert footplate("resume", "cut", *last, "--follow") == 0
    assert "cut: finished after 600 updates" in capsys.readouterr().out
    assert footplate("train", "copy-transformer", *LONG, "--name", "through") == 0
    weights = [here / "runs" / name / "checkpoints" / "00600" / "model.safetensors" for name in ("cut", "through")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_wrong_token_is_a_line(address: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        assert footplate("jobs", "--address", address) == 2
    assert capsys.readouterr().err == (
        f"error: --address {address}: the cluster refuses the token in RAY_AUTH_TOKEN; "
        "get the one that it was started with\n"
    )


def test_a_run_can_be_stopped_before_it_begins(address: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert footplate("submit", "copy-transformer", *LONG, "--name", "early", "--address", address) == 0
    capsys.readouterr()
    assert footplate("stop", "early", "--address", address) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("early: stopped")
