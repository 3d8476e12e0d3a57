import threading
from collections.abc import Mapping

import pytest

from footplate.step import Activity, Medium, Table
from footplate.tracking.feed import Feed
from footplate.tracking.tracker import Guard, Tracker, Trackers


class Notes:
    """A tracker that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def row(self, row: Mapping[str, float]) -> None:
        self.told.append(("row", int(row["update"])))

    def media(self, update: int, media: Mapping[str, Medium]) -> None:
        self.told.append(("media", update, *media))

    def message(self, text: str) -> None:
        self.told.append(("message", text))

    def activity(self, activity: Activity) -> None:
        self.told.append(("activity", activity.done))

    def close(self, outcome: str) -> None:
        self.told.append(("close", outcome))


class Broken(Notes):
    """Fails from its second row on, and when it is closed."""

    def row(self, row: Mapping[str, float]) -> None:
        super().row(row)
        if row["update"] >= 2:
            raise ConnectionError("the server\nis gone")

    def close(self, outcome: str) -> None:
        raise ConnectionError("still gone")


class Stuck(Notes):
    """Waits, in its first row, until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Event()
        self.released = threading.Event()

    def row(self, row: Mapping[str, float]) -> None:
        self.has_begun.set()
        assert self.released.wait(60)
        super().row(row)


def tell_everything(tracker: Tracker) -> None:
    tracker.message("begun")
    tracker.activity(Activity("evaluating", 1, 2))
    for update in (1, 2, 3):
        tracker.row({"update": update})
    tracker.media(3, {"samples": Table(("a",), [("b",)])})
    tracker.close("finished")


EVERYTHING = [
    ("message", "begun"),
    ("activity", 1),
    ("row", 1),
    ("row", 2),
    ("row", 3),
    ("media", 3, "samples"),
    ("close", "finished"),
]
WARNING = "track.it: ConnectionError: the server is gone; this tracker is switched off, training goes on"


def test_all_trackers_are_told_everything_in_order() -> None:
    truth, guarded, fed = Notes(), Notes(), Notes()
    trackers = Trackers(truth)
    trackers.add(Guard("guarded", guarded, trackers.message))
    trackers.add(Feed("fed", lambda: fed, trackers.message))
    tell_everything(trackers)
    assert truth.told == guarded.told == fed.told == EVERYTHING


def test_a_guarded_tracker_that_fails_is_switched_off_with_one_warning() -> None:
    broken, other = Broken(), Notes()
    trackers = Trackers(Notes())
    trackers.add(Guard("track.it", broken, trackers.message))
    trackers.add(other)
    tell_everything(trackers)
    assert broken.told == [("message", "begun"), ("activity", 1), ("row", 1), ("row", 2)]
    assert [entry for entry in other.told if entry[0] == "message"] == [("message", "begun"), ("message", WARNING)]
    assert [entry for entry in other.told if entry != ("message", WARNING)] == EVERYTHING


def test_a_fed_tracker_that_fails_is_switched_off_with_one_warning() -> None:
    broken, other = Broken(), Notes()
    trackers = Trackers(Notes())
    trackers.add(other)
    trackers.add(Feed("track.it", lambda: broken, trackers.message))
    tell_everything(trackers)
    assert broken.told == [("message", "begun"), ("activity", 1), ("row", 1), ("row", 2)]
    assert other.told.count(("message", WARNING)) == 1
    assert [entry for entry in other.told if entry != ("message", WARNING)] == EVERYTHING


def test_a_tracker_that_cannot_be_opened_is_switched_off_with_one_warning() -> None:
    warnings: list[str] = []

    def refuse() -> Tracker:
        raise PermissionError("not for you")

    tell_everything(Feed("track.it", refuse, warnings.append))
    assert warnings == ["track.it: PermissionError: not for you; this tracker is switched off, training goes on"]


def test_a_failure_of_the_truth_is_a_failure_of_the_run() -> None:
    trackers = Trackers(Broken())
    trackers.row({"update": 1})
    with pytest.raises(ConnectionError):
        trackers.row({"update": 2})


def test_a_stuck_tracker_loses_its_oldest_rows_but_nothing_else_and_training_never_waits() -> None:
    stuck, warnings = Stuck(), list[str]()
    feed = Feed("track.it", lambda: stuck, warnings.append, capacity=10)
    feed.row({"update": 1})
    assert stuck.has_begun.wait(60)
    feed.message("kept")
    for update in range(2, 26):
        feed.row({"update": update})
    stuck.released.set()
    feed.close("stopped")
    kept = [("row", update) for update in range(18, 26)]
    assert stuck.told == [("row", 1), ("message", "kept"), *kept, ("close", "stopped")]
    assert warnings == ["track.it: too slow, 16 rows were left out; metrics.jsonl has every row"]


def test_of_progress_that_waits_only_the_newest_is_passed_on() -> None:
    stuck = Stuck()
    feed = Feed("track.it", lambda: stuck, print)
    feed.row({"update": 1})
    assert stuck.has_begun.wait(60)
    for done in range(100):
        feed.activity(Activity("evaluating", done, 100))
    stuck.released.set()
    feed.close("finished")
    assert stuck.told == [("row", 1), ("activity", 99), ("close", "finished")]


def test_a_tracker_that_hangs_is_not_waited_for_at_the_end() -> None:
    stuck, warnings = Stuck(), list[str]()
    feed = Feed("track.it", lambda: stuck, warnings.append, close_seconds=0.1)
    feed.row({"update": 1})
    assert stuck.has_begun.wait(60)
    feed.row({"update": 2})
    feed.close("finished")
    assert warnings == [
        "track.it: still not done after 0.1 seconds, 2 calls behind; "
        "not waited for any longer, metrics.jsonl has every row"
    ]
    stuck.released.set()


def test_the_last_words_of_a_slow_tracker_are_heard_by_the_log() -> None:
    log = Notes()
    trackers = Trackers(Notes())
    trackers.add(log)

    class Uploading(Notes):
        def close(self, outcome: str) -> None:
            trackers.message("uploaded")

    trackers.add(Feed("track.it", Uploading, trackers.message))
    trackers.close("finished")
    assert log.told == [("message", "uploaded"), ("close", "finished")]
