"""On Ray a recipe trains as it does in this process; two workers do what one does."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import Figures, Victim, check_equal, kill_all_of
from safetensors.torch import load_file

from footplate.checkpoint import CheckpointStore
from footplate.errors import FootplateError
from footplate.execution import local_context, run
from footplate.folder import RunFolder, create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate.tracking.metrics_file import MEASURED, read_rows
from footplate_cluster.authentication import find_token

pytestmark = pytest.mark.ray

COPY = ["threads=1", "updates=20", "model.dropout=0", "evaluate.every_updates=10"]
CATCH = ["threads=1", "reset_every_updates=5", "evaluate.every_updates=10"]
RECIPES = {"copy-transformer": COPY, "catch-paac": CATCH}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    from footplate_cluster.connection import connected

    with pytest.MonkeyPatch.context() as patch:
        # What workers on this machine inherit: W&B where nobody answers, and no key of whoever runs this.
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        with connected(None):
            yield


def overrides_of(recipe: str) -> list[str]:
    if recipe == "copy-transformer":
        return COPY
    job = load_job(recipe)
    steps = 20 * job.config.environments * job.config.rollout_steps  # type: ignore[attr-defined]
    return [*CATCH, f"steps={steps}"]


def train(tmp_path: Path, recipe: str, name: str, *extra: str) -> RunFolder:
    job = load_job(recipe, [*overrides_of(recipe), *extra])
    folder = create_run(tmp_path, name, recipe)
    folder.job.write_text(job.to_yaml())
    launch(job, folder)
    return folder


def weights(folder: RunFolder) -> bytes:
    return (folder.checkpoints / "000020" / "model.safetensors").read_bytes()


def evaluations(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the terminal has shown of evaluations and samples, which another process tells in another order."""
    lines = sorted(capsys.readouterr().out.splitlines())
    return [line for line in lines if line.startswith((" ", "samples after")) or "  eval/" in line]


def rows(folder: RunFolder) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{name: row[name] for name in row if not name.startswith(MEASURED)} for row in read]


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_worker_gives_the_same_numbers_as_this_process_and_shows_its_progress_here(
    cluster: None, tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    here = train(tmp_path, recipe, "here")
    shown = evaluations(capsys)
    ray = train(tmp_path, recipe, "ray", "on=ray")
    assert evaluations(capsys) == shown
    assert len([line for line in shown if line.startswith("update 20/20  eval/")]) == 1
    assert ("samples after update 20" in shown) == (recipe == "copy-transformer")
    assert weights(ray) == weights(here)
    assert rows(ray) == rows(here)
    assert ray.read_status()["state"] == "finished"
    assert {path.name for path in here.path.iterdir()} - {"lock"} <= {path.name for path in ray.path.iterdir()}


@pytest.fixture(scope="module", params=RECIPES)
def two(cluster: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run by two workers, to its end, of each recipe."""
    settings = ["precision=fp64", "on=ray", "resources.workers=2", "track.wandb={}"]
    return train(tmp_path_factory.mktemp("two"), request.param, request.param, *settings)


def test_two_workers_do_what_one_does(two: RunFolder, tmp_path: Path) -> None:
    one = train(tmp_path, two.name, "one", "precision=fp64")
    before, after = (load_file(folder.checkpoints / "000020" / "model.safetensors") for folder in (one, two))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=1e-9, atol=1e-12)
    for first, second in zip(rows(one), rows(two), strict=True):
        assert second["train/loss"] == pytest.approx(first["train/loss"], rel=1e-9)
        assert {name: second[name] for name in second if "/" not in name} == {
            name: first[name] for name in first if "/" not in name
        }


def test_each_worker_says_what_it_takes_of_its_machine(two: RunFolder) -> None:
    for row in read_rows(two.metrics):
        assert all(0.05 < row[f"system/{rank}/memory_gib"] < 10 for rank in (0, 1))


def test_without_wandb_a_run_on_ray_goes_on_and_says_so_once(two: RunFolder) -> None:
    assert two.read_status()["state"] == "finished"
    said = [line for line in two.log.read_text().splitlines() if "track.wandb" in line]
    assert len(said) == 1
    assert "recorded offline, to upload it later: wandb sync" in said[0]


def test_a_run_that_was_cut_on_ray_resumes_there_to_the_same_bytes(two: RunFolder, tmp_path: Path) -> None:
    job = load_job(two.job)
    resumed = create_run(tmp_path, "resumed", two.name)
    resumed.job.write_text(job.to_yaml())
    shutil.copytree(two.checkpoints / "000010", resumed.checkpoints / "000010")
    resumed.metrics.write_bytes(b"".join(two.metrics.read_bytes().splitlines(keepends=True)[:13]))
    launch(job, resumed)
    assert weights(resumed) == weights(two)
    assert rows(resumed) == rows(two)


@pytest.mark.slow
def test_a_run_survives_the_death_of_its_driver(cluster: None, tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    overrides = [*COPY, "updates=60", "evaluate.every_updates=20", "evaluate.sentences=8", "save.every_updates=7"]
    overrides += ["on=ray", f"address={address}", "resources.workers=2", "batch_tokens=128", "track.every_updates=1"]
    chance, figures = random.Random(3), Figures()
    through = Victim("copy-transformer", overrides, tmp_path, "through", Figures()).let_it_end()
    killed = Victim("copy-transformer", overrides, tmp_path, "killed", figures)
    assert killed.live_and_die("write", chance, kill_all_of)
    check_equal(through, killed.let_it_end())
    assert figures.kills == 1
    assert not (killed.folder.path / "ray").exists()


def test_breakpoint_in_this_process_stays_what_it_was(cluster: None) -> None:
    assert "PYTHONBREAKPOINT" not in os.environ


def test_a_cluster_that_is_started_here_asks_for_a_token_that_only_this_user_reads(cluster: None) -> None:
    assert os.environ["RAY_AUTH_MODE"] == "token"
    token = find_token()
    assert token is not None
    if Path(token.source).is_file():
        assert Path(token.source).stat().st_mode & 0o077 == 0


def test_what_the_cluster_does_not_have_is_refused_at_once(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(FootplateError) as raised:
        train(tmp_path, "copy-transformer", "greedy", "on=ray", "resources.workers=64")
    assert str(raised.value) == (
        f"resources: 64 x 1 CPU = 64 CPU are needed, the cluster has {os.cpu_count()}; "
        "ask for fewer with --workers or resources.cpus_per_worker, or let it grow with --wait"
    )


def test_a_mistake_that_a_worker_finds_is_one_line(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(FootplateError) as raised:
        train(tmp_path, "copy-transformer", "typo", "on=ray", "vocabulary={kind: bpe, size: 50000}")
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("vocabulary.size: 50000 is more than")


@pytest.mark.slow
def test_ctrl_c_saves_and_ends_and_the_run_goes_on_here_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [*COPY, "updates=2000", "evaluate.every_updates=2000", "save.every_updates=2000"]
    command = [sys.executable, "-m", "footplate", "train", "copy-transformer", *overrides, "--on", "ray"]
    process = subprocess.Popen(
        [*command, "--runs", str(tmp_path), "--name", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    folder = RunFolder(tmp_path / "run")
    deadline = time.monotonic() + 300
    while folder.read_status()["update"] < 10 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    status = folder.read_status()
    assert (status["state"], status["reason"]) == ("stopped", "Ctrl-C")
    assert CheckpointStore(folder.checkpoints).updates() == [status["update"]]
    assert f"footplate resume {folder.path}" in output

    reached = status["update"] + 5
    monkeypatch.setattr("footplate.record.SECONDS_BETWEEN_LOOKS", 0.0)
    job = load_job(folder.job, ["on=here"])
    through = create_run(tmp_path, "through", "copy")
    for target in (folder, through):
        checkpoint = CheckpointStore(target.checkpoints).newest()
        for step in run(job, local_context(job, target.path, checkpoint)):
            if step.activity is None and step.update == reached:
                target.stop.write_text("far enough")
    last = [CheckpointStore(target.checkpoints).updates()[-1] for target in (folder, through)]
    assert last[0] == last[1]
    states = [
        (target.checkpoints / f"{last[0]:06d}" / "model.safetensors").read_bytes() for target in (folder, through)
    ]
    assert states[0] == states[1]
