"""What a trial leaves behind that fails before it trains; Tune is not needed for that."""

import sys
from pathlib import Path

import pytest

from footplate.folder import create_run
from footplate_cluster import connection  # noqa: F401  # sets what Ray reads when it is imported
from footplate_cluster.trial import train_trial


def test_a_trial_that_fails_before_it_trains_says_why_and_keeps_how_far_it_had_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["footplate"])
    folder = create_run(tmp_path, "trial", "line")
    best = {"metric": "eval/error", "value": 0.5}
    folder.write_status({"state": "failed", "error": "ValueError: an earlier one", "update": 40, "best": best})
    folder.job.write_text("task: nowhere.py\n")
    settings = {"folder": str(folder.path), "stop": str(tmp_path / "stop"), "working_directory": str(tmp_path / "gone")}
    problem = train_trial({"trial": settings})["problem"]
    status = folder.read_status()
    assert "nowhere.py" in problem
    assert (status["state"], status["error"]) == ("failed", f"ConfigError: {problem}")
    assert (status["update"], status["best"]) == (40, best)
    assert "nowhere.py" in folder.log.read_text()
    said = folder.log.read_text()
    train_trial({"trial": settings})
    assert folder.log.read_text() == said
