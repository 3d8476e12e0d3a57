"""Runs on S3, against a server of the same protocol on this machine: the command line, exact texts, another machine."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import check_equal

from footplate import cli, lease, mirror
from footplate.folder import create_run, open_run
from footplate.job import load_job
from footplate.launch import launch
from footplate.storage import Storage

LINE_TASK = Path(__file__).with_name("line_task.py")
KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server that has the bucket `bucket`."""
    import fsspec
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        moto.start()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        address = "http://{}:{}".format(*moto.get_host_and_port())
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield address
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        moto.stop()


@pytest.fixture(autouse=True)
def machine(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import fsspec

    monkeypatch.setattr(mirror, "SECONDS_BETWEEN_PASSES", 0.05)
    monkeypatch.setattr(lease, "RENEWAL_SECONDS", 0.2)
    monkeypatch.setenv("FOOTPLATE_CACHE", str(tmp_path / "machine"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def footplate(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command line in this process."""
    monkeypatch.setattr(sys, "argv", ["footplate", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def recipe(folder: Path) -> Path:
    path = folder / "line.yaml"
    path.write_text(
        f"task: {LINE_TASK}\nthreads: 1\nupdates: 20\nbest: {{metric: eval/error, better: lower}}\n"
        "evaluate: {every_updates: 5}\n"
    )
    return path


def test_every_command_takes_a_run_on_s3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = str(recipe(tmp_path))
    through = create_run(tmp_path, "through", "line")
    launch(load_job(line), through)
    capsys.readouterr()

    assert footplate(monkeypatch, "train", line, "--runs", "s3://bucket/runs", "--name", "a") == 0
    assert capsys.readouterr().out.splitlines()[-3:-1] == [
        "a: finished after 20 updates, best eval/error 1.187",
        "  run folder  s3://bucket/runs/a",
    ]
    assert footplate(monkeypatch, "train", line, "--runs", "s3://bucket/runs", "--name", "a") == 2
    assert capsys.readouterr().err == (
        "error: s3://bucket/runs/a: a run of this name exists; "
        "choose another --name, or `footplate resume s3://bucket/runs/a`\n"
    )
    monkeypatch.setenv("FOOTPLATE_CACHE", str(tmp_path / "other"))
    assert footplate(monkeypatch, "runs", "--runs", "s3://bucket/runs") == 0
    assert footplate(monkeypatch, "show", "s3://bucket/runs/a") == 0
    assert (tmp_path / "a-curves.png").exists()
    assert footplate(monkeypatch, "evaluate", "a", "--runs", "s3://bucket/runs") == 0
    assert footplate(monkeypatch, "resume", "a", "--runs", "s3://bucket/runs") == 0
    said = capsys.readouterr().out
    assert "eval/error               1.18" in said
    assert said.splitlines()[-1] == "a: finished already, nothing to do"
    check_equal(through, open_run("s3://bucket/runs/a", ""))


def test_a_run_that_was_stopped_goes_on_on_another_machine_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = load_job(recipe(tmp_path))
    through = create_run(tmp_path, "through", "line")
    launch(job, through)
    folder = create_run("s3://bucket/moves", "run", "line")
    folder.write_job(load_job(recipe(tmp_path), ["stop.hours=1e-9"]).to_yaml())
    launch(load_job(folder.job), folder)
    assert folder.refreshed().read_status()["state"] == "stopped"
    folder.write_job(job.to_yaml())
    monkeypatch.setenv("FOOTPLATE_CACHE", str(tmp_path / "other"))
    launch(job, open_run("run", "s3://bucket/moves"))
    check_equal(through, open_run("run", "s3://bucket/moves"))


def test_one_of_two_makes_an_object(server: str) -> None:
    storage = Storage("s3://bucket/once")
    assert storage.create("lease/000001.json", b"1")
    assert not storage.create("lease/000001.json", b"2")
    assert storage.read("lease/000001.json") == b"1"


@pytest.mark.parametrize(
    ("settings", "url", "problem"),
    [
        ({}, "s3://nobody-made-this/runs", "there is no such bucket; create it, or name another"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_EC2_METADATA_DISABLED": "true"},
         "s3://bucket/runs",
         "no credentials for it are found here (Unable to locate credentials); set them as its own tools take them, "
         "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "s3://bucket/runs",
         'does not answer as it should (Could not connect to the endpoint URL: '
         '"http://127.0.0.1:1/bucket?list-type=2&prefix=runs%2F&delimiter=%2F&encoding-type=url"); '
         "check the address and the network"),
    ],
    ids=["no bucket", "no credentials", "no server"],
)  # fmt: skip
def test_a_place_that_cannot_be_used_is_one_line_before_anything_begins(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, str | None],
    url: str,
    problem: str,
) -> None:
    for name, value in settings.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    for command in (["train", str(recipe(tmp_path)), "--runs", url], ["runs", "--runs", url], ["resume", f"{url}/x"]):
        assert footplate(monkeypatch, *command) == 2
        place = f"{url}/x" if command[0] == "resume" else url
        expected = problem.replace("prefix=runs%2F", "prefix=runs%2Fx%2F") if command[0] == "resume" else problem
        assert capsys.readouterr().err == f"error: {place}: {expected}\n"
    assert not (tmp_path / "machine").exists()
