"""Folders that this user may not look into, or not write into: a line that names them, and exit code 2."""

import sys
from pathlib import Path

import pytest

from footplate.cli import main
from footplate.commands import resume
from footplate.folder import create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate.runs import list_runs

LINE_TASK = Path(__file__).with_name("line_task.py")
RECIPE = """
task: translation
updates: 1
evaluate: {every_updates: 1}
corpus: {kind: parallel, source: de, target: en}
model: {width: 16, feed_forward_width: 16}
"""
RUN = "cannot be looked into (Permission denied); make {} readable"
TEXT = "{here}/shut/train.de: cannot be opened (Permission denied); set corpus.folder, "
TEXT += "relative to where the command runs"
PREPARED = "the tokenised corpus cannot be written (Permission denied); make its folder writable, "
PREPARED += "or choose another folder with --to"
REFUSALS = {
    **{
        f"{command} {run}": f"{run}: {RUN.format(place)}"
        for command in ("resume", "show", "evaluate", "translate")
        for run, place in (("denied", "runs/denied"), ("shut/x", "shut/x"))
    },
    "runs --runs shut": "shut: cannot be read (Permission denied); "
    "make it readable, or choose another folder with --runs",
    "runs --runs shut/x": "shut/x: cannot be read (Permission denied); "
    "make it readable, or choose another folder with --runs",
    "train text.yaml corpus.folder=shut": TEXT,
    "data stats text.yaml corpus.folder=shut": TEXT,
    "data prepare text.yaml corpus.folder=shut": TEXT,
    "data prepare text.yaml corpus.folder=words --to shut/x": f"shut/x: {PREPARED}",
    "data prepare text.yaml corpus.folder=words --to shut/x/y": f"shut/x/y: {PREPARED}",
    "data prepare text.yaml corpus.folder=words --to kept/x": f"kept/x: {PREPARED}",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obeying_permissions: None) -> Path:
    for name in ("runs/denied", "shut/x", "kept", "words"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "text.yaml").write_text(RECIPE)
    for name in ("train.de", "train.en", "valid.de", "valid.en"):
        (tmp_path / "words" / name).write_text("a b\n")
    for name, mode in (("runs/denied", 0), ("shut", 0), ("kept", 0o500)):
        (tmp_path / name).chmod(mode)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", REFUSALS)
def test_what_is_not_allowed_is_one_line_and_exits_with_2(
    here: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["footplate", *command.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert capsys.readouterr().err == f"error: {REFUSALS[command].replace('{here}', str(here))}\n"
    assert ended.value.code == 2
    assert [path.name for path in (here / "runs").iterdir()] == ["denied"], "no run is left behind"


def test_runs_that_cannot_be_looked_into_do_not_hide_the_others(here: Path) -> None:
    create_run("runs", "mine", "line").write_job(f"task: {LINE_TASK}\n")
    assert [row[0] for row in list_runs("runs")] == ["mine"]


def test_a_checkpoint_that_cannot_be_looked_into_is_named_and_the_one_before_is_used(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "line.yaml").write_text(f"task: {LINE_TASK}\nupdates: 10\nthreads: 1\n")
    job = load_job("line.yaml")
    folder = create_run("runs", "line", "line")
    folder.write_job(job.to_yaml())
    launch(job, folder)
    folder.write_status({"state": "stopped", "update": 10})
    (folder.checkpoints / "000010").chmod(0)
    capsys.readouterr()
    resume("line")
    said = capsys.readouterr().out
    assert (
        f"{folder.checkpoints}/000010/manifest.json: the manifest is missing or damaged; "
        "this checkpoint cannot be used; trying the one before\n"
    ) in said
    assert folder.read_status()["state"] == "finished"
