import json
import math
import os
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from footplate.curves import _panels, curves_figure, moving_average
from footplate.errors import FootplateError
from footplate.folder import RunFolder
from footplate.show import _size, metrics_table, show, summary

JOB = "task: translation\nabout: a small one\nbest: {metric: eval/bleu}\n"


def run_folder(path: Path, rows: list[dict[str, float | str]], status: dict[str, object] | None = None) -> RunFolder:
    folder = RunFolder(path)
    folder.job.write_text(JOB)
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if status is not None:
        folder.write_status(status)
    return folder


def some_rows(updates: int = 200) -> list[dict[str, float | str]]:
    random = np.random.default_rng(1)
    return [
        {"update": update, "target_tokens": 100 * update, "train/loss": 5 / update + random.uniform()}
        | {"speed/updates_per_second": 2.0, "time/seconds": update / 2}
        | ({"eval/bleu": 20 + 10 * math.sin(update / 40)} if update % 20 == 0 else {})
        for update in range(1, updates + 1)
    ]


def test_a_run_is_summed_up(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, some_rows(), {"state": "finished", "update": 200, "updates": 200})
    (folder.checkpoints / "000100").mkdir(parents=True)
    (folder.checkpoints / "000100" / "manifest.json").write_text("{}")
    (folder.path / "ballast").write_bytes(bytes(5_000_000))
    rows = [dict(row) for row in some_rows()]
    facts = dict(summary(folder, {"task": "translation", "best": {"metric": "eval/bleu"}}, folder.read_status(), rows))  # type: ignore[arg-type]
    assert facts.pop("run folder").startswith(f"{tmp_path} (5.0")
    assert facts == {
        "task": "translation",
        "state": "finished",
        "updates": "200 of 200",
        "target tokens": "20,000",
        "training time": "1:40",
        "best": "eval/bleu 29.97 at update 60",  # 20 + 10 sin(1.5)
        "checkpoints": "100",
    }


def test_a_run_that_says_running_while_nobody_works_on_it_is_shown_as_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r").mkdir()
    show(run_folder(tmp_path / "r", some_rows(30), {"state": "running", "update": 30, "updates": 100}))
    assert "killed; `footplate resume " in capsys.readouterr().out


def test_the_lowest_and_the_highest_value_are_found_with_their_updates() -> None:
    nan, infinity = float("nan"), float("inf")
    rows = [
        {"update": 1, "train/loss": 3.0, "train/odd": nan},
        {"update": 2, "train/loss": nan, "eval/bleu": 1.5},
        {"update": 3, "train/loss": 0.5, "frames": 7},
        {"update": 4, "train/loss": infinity},
        {"update": 5, "train/loss": 1.0, "time/seconds": 3.0},
    ]
    assert metrics_table(rows) == [
        ("eval/bleu", "1.5", "1.5", "2", "1.5", "2"),
        ("train/loss", "1", "0.5", "3", "3", "1"),
        ("train/odd", "nan", "", "", "", ""),
    ]


def test_the_curves_are_drawn_while_a_line_is_being_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path, some_rows())
    with folder.metrics.open("a") as file:
        file.write('{"update": 201, "train/lo')
    output = show(folder)
    assert output == tmp_path / "curves.png"
    height, width = imread(output).shape[:2]
    assert width > 1000
    assert height > 300
    assert str(output) in capsys.readouterr().out


def test_other_numbers_give_another_picture_and_the_same_numbers_the_same(tmp_path: Path) -> None:
    rows = some_rows(50)
    folder = run_folder(tmp_path, rows)
    first, again = imread(show(folder, tmp_path / "1.png")), imread(show(folder, tmp_path / "2.png"))
    rows[30]["train/loss"] = 2.0
    other = imread(show(run_folder(tmp_path, rows), tmp_path / "3.png"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "rows",
    [
        [{"update": 1, "train/loss": 2.0}],
        [{"update": 1, "train/loss": "NaN"}, {"update": 2, "train/loss": "Infinity"}],
        [{"update": update, "train/loss": 1e-5 if update != 50 else 1e9} for update in range(1, 100)],
        [{"update": update, "train/loss": 3.0, "eval/loss": -3.0, "train/x": 0.0} for update in range(1, 100)],
        [{"update": 1, "train/loss": 0.0}],
        [{"update": 1, "train/loss": 2.0, "time/seconds": "NaN"}],
        [{"update": 1, "train/loss": 2.0, "time/seconds": "Infinity"}],
    ],
    ids=["one row", "nothing finite", "a peak", "constant", "nothing but zeros", "no time", "endless time"],
)
def test_unusual_metrics_are_drawn_without_a_warning(tmp_path: Path, rows: list[dict[str, float | str]]) -> None:
    assert show(run_folder(tmp_path, rows)).exists()


def test_metrics_of_one_quantity_share_a_panel_and_what_is_evaluated_comes_first() -> None:
    names = [
        "train/grad_norm",
        "speed/x",
        "rollout/return",
        "train/loss",
        "eval/bleu",
        "eval/loss",
        "eval/return",
        "time/seconds",
    ]
    row = {"update": 1.0, "frames": 2.0, **dict.fromkeys(names, 1.0), "train/skipped": 0.0}
    assert _panels([row]) == {
        "loss": ["train/loss", "eval/loss"],
        "return": ["rollout/return", "eval/return"],
        "bleu": ["eval/bleu"],
        "grad_norm": ["train/grad_norm"],
        "x": ["speed/x"],
    }


@pytest.mark.parametrize("width", [1, 2, 7, 40])
def test_the_moving_average_is_the_mean_of_the_last_values_that_are_finite(width: int) -> None:
    random = np.random.default_rng(1)
    values = np.where(random.uniform(size=40) < 0.2, np.nan, random.normal(size=40))
    for end, mean in enumerate(moving_average(values, width), start=1):
        window = values[max(0, end - width) : end]
        finite = window[np.isfinite(window)]
        assert np.isnan(mean) if len(finite) == 0 else np.isclose(mean, finite.mean())


@pytest.mark.parametrize("content", [None, "", '{"update": 1}\n', '{"update": 1, "time/seconds": 2.0}\n'])
def test_a_run_without_rows_says_what_to_do(tmp_path: Path, content: str | None) -> None:
    folder = run_folder(tmp_path, [])
    folder.metrics.write_text(content or "")
    if content is None:
        folder.metrics.unlink()
    with pytest.raises(FootplateError) as caught:
        show(folder)
    assert str(caught.value) == (
        f"{tmp_path}/metrics.jsonl: has no rows yet; wait for the first update, or see log.txt for what went wrong"
    )


def test_a_picture_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, some_rows(5))
    with pytest.raises(FootplateError) as caught:
        show(folder, tmp_path / "nowhere" / "x.png")
    assert str(caught.value) == (
        f"{tmp_path}/nowhere/x.png: cannot be written (No such file or directory); choose another path with --output"
    )


@pytest.mark.parametrize("name", ["curves.xyz", "folder"])
def test_curves_are_drawn_as_png_only(tmp_path: Path, name: str) -> None:
    with pytest.raises(FootplateError) as raised:
        show(RunFolder(tmp_path), Path(name))
    stem = Path(name).stem
    assert str(raised.value) == f"--output: {name} is no .png, and curves are drawn as one; write {stem}.png"


def test_the_values_at_the_ends_of_curves_are_not_written_over_one_another() -> None:
    ends = {"eval/return": -15.4, "rollout/return": -13.5, "train/return": -15.3, "train/loss": 1.0}
    rows = [{"update": update} | {name: end - 1 / update for name, end in ends.items()} for update in (1, 2, 3, 4)]
    figure = curves_figure(rows, title="", total_updates=None)
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    assert len(boxes) == 4
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))


def test_a_job_whose_best_names_no_metric_is_shown_without_it(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, some_rows(3), {"state": "finished", "update": 3})
    folder.job.write_text("task: translation\nbest: {better: lower}\n")
    assert show(folder).exists()


def test_files_and_folders_that_vanish_while_they_are_counted_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("000001", "000002"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(bytes(5))
    (tmp_path / "log.txt").write_bytes(bytes(7))
    look = os.stat

    def prune(path: Any, **how: Any) -> os.stat_result:
        if Path(path).name == "log.txt":
            shutil.rmtree(tmp_path / "000001", ignore_errors=True)
        if Path(path).name == "weights":
            Path(path).unlink(missing_ok=True)
        return look(path, **how)

    monkeypatch.setattr(os, "stat", prune)
    assert _size(tmp_path) == 7
