from pathlib import Path

import numpy as np
import pytest

from footplate.step import Picture, Table, Video

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own


def read_back(folder: Path):  # type: ignore[no-untyped-def]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_rows_tables_and_pictures_are_read_back(tmp_path: Path) -> None:
    from footplate.tracking.tensorboard import TensorBoardTracker

    tracker = TensorBoardTracker(tmp_path, resumed_from=0)
    for update in (1, 2):
        tracker.row({"update": update, "frames": 80 * update, "train/loss": 0.5 / update})
    tracker.media(2, {"eval/table": Table(("a", "b"), [("x|y", "z")]), "eval/video": Video(tmp_path / "2.mp4")})
    tracker.media(2, {"eval/picture": Picture(np.zeros((4, 6, 3), dtype=np.uint8))})
    tracker.close("finished")
    events = read_back(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
    assert [event.value for event in events.Scalars("frames")] == [80, 160]
    assert (events.Images("eval/picture")[0].width, events.Images("eval/picture")[0].height) == (6, 4)
    assert (
        b"| a | b |\n| --- | --- |\n| x\\|y | z |"
        in events.Tensors("eval/table/text_summary")[0].tensor_proto.string_val[0]
    )
    assert events.Tensors("eval/video/text_summary")[0].tensor_proto.string_val == [str(tmp_path / "2.mp4").encode()]


def test_what_a_killed_process_wrote_after_the_checkpoint_is_hidden(tmp_path: Path) -> None:
    from footplate.tracking.tensorboard import TensorBoardTracker

    killed = TensorBoardTracker(tmp_path, resumed_from=0)
    for update in range(1, 6):
        killed.row({"update": update, "train/loss": 1.0})
    killed.close("failed")
    resumed = TensorBoardTracker(tmp_path, resumed_from=3)
    resumed.row({"update": 4, "train/loss": 2.0})
    resumed.close("finished")
    scalars = read_back(tmp_path).Scalars("train/loss")
    assert [(event.step, event.value) for event in scalars] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]
