import threading
from collections.abc import Mapping
from pathlib import Path

from footplate.folder import RunFolder
from footplate.step import Activity, Medium
from footplate.tracking.follow import Follower, follow
from footplate.tracking.log_file import LogFile
from footplate.tracking.metrics_file import MetricsFile


class Notes:
    def __init__(self) -> None:
        self.told: list[object] = []

    def row(self, row: Mapping[str, float]) -> None:
        self.told.append(int(row["update"]))

    def media(self, update: int, media: Mapping[str, Medium]) -> None:
        raise AssertionError("files carry no media")

    def message(self, text: str) -> None:
        self.told.append(text)

    def activity(self, activity: Activity) -> None:
        self.told.append(activity)

    def close(self, outcome: str) -> None:
        self.told.append(("close", outcome))

    def news(self) -> list[object]:
        told, self.told = self.told, []
        return told


def test_only_what_is_new_is_told(tmp_path: Path) -> None:
    folder, notes = RunFolder(tmp_path), Notes()
    follower = Follower(folder, notes)
    follower.look()
    assert notes.news() == []
    metrics, log = MetricsFile(folder.metrics), LogFile(folder.log)
    log.message("  begun\nwell")
    metrics.row({"update": 1})
    follower.look()
    assert notes.news() == ["  begun", "well", 1]
    follower.look()
    assert notes.news() == []
    metrics.row({"update": 2})
    metrics.row({"update": 3})
    follower.look()
    assert notes.news() == [2, 3]
    metrics.close("finished")
    log.close("finished")


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    folder, notes = RunFolder(tmp_path), Notes()
    follower = Follower(folder, notes)
    with folder.metrics.open("ab", buffering=0) as file:
        file.write(b'{"update": 1}\n{"upd')
        follower.look()
        assert notes.news() == [1]
        file.write(b'ate": 2}\n')
        follower.look()
        assert notes.news() == [2]


def test_rows_that_were_cut_back_to_a_checkpoint_are_told_again_only_as_they_are_made_again(tmp_path: Path) -> None:
    folder, notes = RunFolder(tmp_path), Notes()
    follower = Follower(folder, notes)
    metrics = MetricsFile(folder.metrics)
    for update in range(1, 6):
        metrics.row({"update": update})
    metrics.close("failed")
    follower.look()
    assert notes.news() == [1, 2, 3, 4, 5]
    resumed = MetricsFile(folder.metrics)
    resumed.truncate_after(3)
    follower.look()
    assert notes.news() == []
    resumed.row({"update": 4})
    resumed.row({"update": 5})
    follower.look()
    assert notes.news() == [4, 5]
    resumed.close("finished")


def test_a_file_cut_in_place_is_noticed_too(tmp_path: Path) -> None:
    folder, notes = RunFolder(tmp_path), Notes()
    follower = Follower(folder, notes)
    folder.metrics.write_text('{"update": 1}\n{"update": 2}\n')
    follower.look()
    with folder.metrics.open("r+") as file:
        file.truncate(len('{"update": 1}\n'))
    follower.look()
    with folder.metrics.open("a") as file:
        file.write('{"update": 2}\n')
    notes.news()
    follower.look()
    assert notes.news() == [2]


def test_what_happened_before_a_run_was_resumed_is_not_told_again(tmp_path: Path) -> None:
    folder, notes = RunFolder(tmp_path), Notes()
    folder.metrics.write_text('{"update": 1}\n')
    folder.log.write_text("2026-01-01 00:00:00 long ago\n")
    follower = Follower(folder, notes)
    follower.look()
    assert notes.news() == []


def test_progress_is_told_when_it_changes(tmp_path: Path) -> None:
    folder, notes = RunFolder(tmp_path), Notes()
    follower = Follower(folder, notes)
    for done in (1, 1, 2):
        folder.write_status(
            {"state": "running", "update": 5, "activity": {"name": "evaluating", "done": done, "total": 9}}
        )
        follower.look()
    folder.write_status({"state": "running", "update": 5, "activity": None})
    follower.look()
    assert notes.news() == [Activity("evaluating", 1, 9), Activity("evaluating", 2, 9)]


def test_following_ends_with_the_rest_and_the_outcome(tmp_path: Path) -> None:
    folder, notes = RunFolder(tmp_path), Notes()
    over = threading.Event()

    def run() -> bool:
        if not over.is_set():
            folder.metrics.write_text('{"update": 1}\n')
            folder.write_status({"state": "finished", "update": 1})
            over.set()
            return False
        return True

    follow(folder, notes, run)
    assert notes.news() == [1, ("close", "finished")]


def test_a_run_that_says_nothing_of_its_end_has_failed(tmp_path: Path) -> None:
    notes = Notes()
    follow(RunFolder(tmp_path), notes, lambda: True)
    assert notes.news() == [("close", "failed")]
