import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from footplate.errors import FootplateError, TrainingError
from footplate.tracking.metrics_file import MetricsFile, read_rows


def write(path: Path, updates: range) -> None:
    file = MetricsFile(path)
    for update in updates:
        file.row({"update": update, "train/loss": 1 / update})
    file.close("finished")


def test_a_row_is_in_the_file_before_row_returns(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.row({"update": 1, "target_tokens": 4096, "train/loss": 2.5})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"update": 1, "target_tokens": 4096, "train/loss": 2.5}\n'
    file.close("finished")


def test_a_process_killed_by_sigkill_loses_no_row(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from footplate.tracking.metrics_file import MetricsFile
file = MetricsFile(Path(sys.argv[1]))
for update in range(1, 501):
    file.row({"update": update, "train/loss": 1 / update})
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "metrics.jsonl"
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -signal.SIGKILL
    assert read_rows(path) == [{"update": update, "train/loss": 1 / update} for update in range(1, 501)]


def test_floats_come_back_with_the_same_bits(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0]
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for update, value in enumerate(values):
        file.row({"update": update, "x": value})
    file.close("finished")
    read = [row["x"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert [value.hex() for value in read] == [value.hex() for value in values]


def test_what_json_has_no_number_for_is_valid_json_and_comes_back(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.row({"update": 1, "a": math.nan, "b": math.inf, "c": -math.inf})
    file.close("finished")

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    written = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(written, parse_constant=refuse) == {"update": 1, "a": "NaN", "b": "Infinity", "c": "-Infinity"}
    [row] = read_rows(tmp_path / "metrics.jsonl")
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)


def test_rows_after_a_checkpoint_are_cut_and_writing_goes_on_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 8))
    file = MetricsFile(path)
    file.truncate_after(4)
    file.row({"update": 5, "train/loss": 0.25})
    file.close("finished")
    assert [row["update"] for row in read_rows(path)] == [1, 2, 3, 4, 5]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("update", [3, 4])
def test_what_is_damaged_behind_a_checkpoint_is_cut_too(update: int, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 5))
    with path.open("ab") as file:
        file.write(b"\0\0\0\n")
    file = MetricsFile(path)
    file.truncate_after(update)
    file.close("finished")
    assert [row["update"] for row in read_rows(path)] == [*range(1, update + 1)]


@pytest.mark.parametrize("torn", [b"{", b'{"update": 3, "train/lo', b'{"update": 3}'])
def test_a_line_torn_off_by_a_kill_is_cut(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 3))
    with path.open("ab") as file:
        file.write(torn)
    assert [row["update"] for row in read_rows(path)] == [1, 2]
    metrics = MetricsFile(path)
    metrics.truncate_after(10)
    metrics.row({"update": 3})
    metrics.close("finished")
    assert [row["update"] for row in read_rows(path)] == [1, 2, 3]


def test_a_file_with_nothing_to_cut_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 4))
    before = path.stat()
    file = MetricsFile(path)
    file.truncate_after(3)
    file.close("finished")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    "line",
    [
        '{"update": null}',
        '{"update": [1]}',
        '{"update": true}',
        '{"update": 2, "train/loss": [1]}',
        f'{{"update": 2, "train/loss": -1{"0" * 400}}}',
        f'{{"update": 1{"0" * 400}}}',
        "7",
        "[" * 100_000,
    ],
    ids=lambda line: line[:40],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"update": 1}}\n{line}\n')
    with pytest.raises(FootplateError) as caught:
        read_rows(path)
    assert str(caught.value) == f"{path}:2: is damaged; delete this line to use the rest"


def test_a_damaged_line_in_between_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"update": 1}\nnonsense\n{"update": 3}\n')
    with pytest.raises(FootplateError) as caught:
        read_rows(path)
    assert str(caught.value) == f"{path}:2: is damaged; delete this line to use the rest"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_disk_ends_the_run_with_one_line() -> None:
    file = MetricsFile(Path("/dev/full"))
    with pytest.raises(TrainingError) as caught:
        file.row({"update": 1})
    assert str(caught.value) == (
        "/dev/full: cannot be written (No space left on device); mend that, then `footplate resume /dev`"
    )
    file.close("failed")


def test_a_folder_that_is_not_there_ends_the_run_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        MetricsFile(tmp_path / "gone" / "metrics.jsonl")
    assert str(caught.value) == (
        f"{tmp_path}/gone/metrics.jsonl: cannot be written (No such file or directory); "
        f"mend that, then `footplate resume {tmp_path}/gone`"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_cut_back_is_on_the_disk_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    path = tmp_path / "metrics.jsonl"
    write(path, range(1, 5))
    monkeypatch.setattr(os, "fsync", noted)
    file = MetricsFile(path)
    file.truncate_after(2)
    file.close("finished")
    assert synced == [path.stat().st_ino, tmp_path.stat().st_ino]
