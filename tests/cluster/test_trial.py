"""What a trial leaves behind that fails before it trains; Tune is not needed for that."""

import sys
from pathlib import Path

import pytest

from footplate.folder import create_run
from footplate_cluster import connection  # noqa: F401  # sets what Ray reads when it is imported
from footplate_cluster.marker import write_marker
from footplate_cluster.trial import train_trial


def settings_of(folder: Path) -> dict[str, object]:
    sweep = folder.parent
    place = {"stop": str(sweep / "stop"), "token": "token", "working_directory": str(sweep / "gone")}
    return {"trial": {"folder": str(folder), **place}}


def test_a_trial_that_fails_before_it_trains_says_why_and_keeps_how_far_it_had_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["footplate"])
    folder = create_run(tmp_path, "trial", "line")
    best = {"metric": "eval/error", "value": 0.5}
    folder.write_status({"state": "failed", "error": "ValueError: an earlier one", "update": 40, "best": best})
    folder.job.write_text("task: nowhere.py\n")
    write_marker(tmp_path, "token")
    problem = train_trial(settings_of(folder.path))["problem"]
    status = folder.read_status()
    assert "nowhere.py" in problem
    assert (status["state"], status["error"]) == ("failed", f"ConfigError: {problem}")
    assert (status["update"], status["best"]) == (40, best)
    assert "nowhere.py" in folder.log.read_text()
    said = folder.log.read_text()
    train_trial(settings_of(folder.path))
    assert folder.log.read_text() == said


def test_a_trial_on_a_machine_that_does_not_see_the_sweep_says_so_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    elsewhere = create_run(tmp_path / "elsewhere", "trial", "line").path  # a folder that only looks like the sweep's
    write_marker(elsewhere.parent, "another start's token")
    before = sorted(elsewhere.parent.rglob("*"))
    for folder in (elsewhere, tmp_path / "nowhere" / "trial"):
        assert train_trial(settings_of(folder)) == {
            "elsewhere": f"{folder.parent}: on node7 this is not the sweep's folder that the driver sees; "
            "give --runs a folder on a disk that all machines of the cluster share"
        }
    assert sorted(elsewhere.parent.rglob("*")) == before
    assert not (tmp_path / "nowhere").exists()
