"""From outside to a cluster and back: what is submitted trains as it would here, and stops, and goes on.

The head asks for a token, and has ports and a folder of its own (benchmarks/ray_head.py).
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import check_equal
from ray_head import RayHead, ray_head

from footplate.cli import main
from footplate.folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.machines]

LINE_TASK = Path(__file__).parents[1] / "platform" / "line_task.py"
LONG = ["threads=1", "updates=600", "batch_tokens=64", "evaluate.every_updates=600", "evaluate.sentences=8"]
LIFE_SECONDS = 300


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head() as head:
        yield head


@pytest.fixture
def address(head: RayHead) -> str:
    return head.address


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
    weights = [here / "runs" / name / "checkpoints" / "000600" / "model.safetensors" for name in ("cut", "through")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_wrong_token_is_a_line(head: RayHead, address: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        assert footplate("jobs", "--address", address) == 2
    assert capsys.readouterr().err == (
        f"error: --address {address}: the cluster refuses the token in RAY_AUTH_TOKEN; "
        "get the one that it was started with\n"
    )
    train = [sys.executable, "-m", "footplate", "train", "copy-transformer", "--on", "ray"]
    done = subprocess.run(
        [*train, "--address", head.gcs_address],
        env=os.environ | {"RAY_AUTH_TOKEN": "wrong"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    *_, said = done.stderr.splitlines()  # before it there are lines that Ray writes itself
    refused = "no Ray cluster answers there, or it refuses the token in RAY_AUTH_TOKEN (Failed to connect to"
    assert said.startswith(f"error: --address {head.gcs_address}: {refused}")
    assert "wrong" not in done.stderr


def test_a_run_can_be_stopped_before_it_begins(address: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert footplate("submit", "copy-transformer", *LONG, "--name", "early", "--address", address) == 0
    capsys.readouterr()
    assert footplate("stop", "early", "--address", address) == 0
    anew = f"footplate submit RECIPE --name early --runs {here}/runs --address {address}"
    assert capsys.readouterr().out.splitlines()[1:] == ["early: stopped before it began", f"  start anew  {anew}"]
    assert footplate("resume", "early", "--address", address) == 2
    assert f"start it anew with `{anew}`" in capsys.readouterr().err
    assert footplate("submit", "copy-transformer", *LONG, "--name", "early", "--address", address) == 0
    assert footplate("stop", "early", "--address", address) == 0
