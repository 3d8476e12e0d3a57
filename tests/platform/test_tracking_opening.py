import json
import sys
from pathlib import Path

import pytest

from footplate.errors import FootplateError
from footplate.folder import RunFolder
from footplate.job import Best, Job, Track, Wandb
from footplate.section import Section
from footplate.step import Table
from footplate.tracking import open_trackers


class Config(Section):
    updates: int = 5


def job(track: Track, on: str = "here") -> Job:
    return Job.model_validate(
        {"task": "t", "config": Config(), "track": track, "on": on, "best": Best(metric="eval/loss", better="lower")}
    )


def test_a_run_folder_holds_everything_and_the_screen_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    tracker = open_trackers(job(Track()), folder, total_updates=5)
    tracker.message("begun")
    tracker.row({"update": 1, "train/loss": 2.0})
    tracker.media(1, {"samples": Table(("a",), [("b",)])})
    tracker.close("finished")
    assert json.loads(folder.metrics.read_text()) == {"update": 1, "train/loss": 2.0}
    assert "begun" in folder.log.read_text()
    assert (folder.samples / "000001-samples.json").exists()
    assert capsys.readouterr().out.splitlines()[:2] == ["begun", "update 1/5  train/loss 2"]


def test_resuming_cuts_the_metrics_back_to_the_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for resumed_from in (0, 2):
        tracker = open_trackers(job(Track(), on="ray"), folder, total_updates=5, resumed_from=resumed_from)
        for update in range(resumed_from + 1, 5):
            tracker.row({"update": update, "from": resumed_from})
        tracker.close("stopped")
    rows = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [(row["update"], row["from"]) for row in rows] == [(1, 0), (2, 0), (3, 2), (4, 2)]


def test_a_worker_of_a_cluster_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = open_trackers(job(Track(), on="ray"), RunFolder(tmp_path), total_updates=5)
    tracker.row({"update": 1})
    tracker.message("begun")
    tracker.close("finished")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("package", "track"), [("wandb", Track(wandb=Wandb())), ("tensorboard", Track(tensorboard=True))]
)
def test_a_package_that_is_not_installed_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, track: Track
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # how Python marks a module that cannot be imported
    with pytest.raises(FootplateError) as caught:
        open_trackers(job(track), RunFolder(tmp_path), total_updates=5)
    assert str(caught.value) == f"track.{package}: {package} is not installed; pip install 'footplate[{package}]'"
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_is_written_when_asked_for(tmp_path: Path) -> None:
    tracker = open_trackers(job(Track(tensorboard=True), on="ray"), RunFolder(tmp_path), total_updates=5)
    tracker.row({"update": 1, "train/loss": 2.0})
    tracker.close("finished")
    assert "switched off" not in (tmp_path / "log.txt").read_text()
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] != []
