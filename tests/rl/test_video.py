from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from footplate.errors import FootplateError
from footplate_rl.video import VideoFile


def pictures(count: int, height: int, width: int) -> list[NDArray[np.uint8]]:
    """A white bar that moves down over colour."""
    made = []
    for number in range(count):
        picture = np.full((height, width, 3), [200, 60, 20], np.uint8)
        picture[height * number // count : height * (number + 1) // count] = 255
        made.append(picture)
    return made


def read(path: Path) -> tuple[list[NDArray[np.uint8]], float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 0)
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], rate


def test_what_is_read_back_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    written = pictures(12, 300, 400)
    with VideoFile(path, 15) as film:
        for picture in written:
            film.write(picture)
    frames, rate = read(path)
    assert rate == pytest.approx(15)
    assert len(frames) == 12
    for frame, picture in zip(frames, written, strict=True):
        assert frame.shape == picture.shape
        assert np.abs(frame.astype(int) - picture).mean() < 6


def test_small_pictures_are_enlarged_by_a_whole_factor(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with VideoFile(path, 5) as film:
        film.write(pictures(1, 210, 160)[0])
    assert read(path)[0][0].shape == (420, 320, 3)


def test_odd_sides_become_even(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with VideoFile(path, 5) as film:
        film.write(pictures(1, 301, 303)[0])
    assert read(path)[0][0].shape == (302, 304, 3)


def test_a_video_that_is_broken_off_by_an_error_can_be_played_so_far(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"

    def film_and_fail() -> None:
        with VideoFile(path, 5) as film:
            for picture in pictures(3, 300, 300):
                film.write(picture)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        film_and_fail()
    assert len(read(path)[0]) == 3


def test_a_folder_that_is_not_there_is_refused_not_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "film.mp4"
    with pytest.raises(FootplateError) as refused:
        VideoFile(path, 5)
    assert str(refused.value) == f"--video: {path}: {path.parent} is no folder; make it first"
    assert not path.parent.exists()


def test_pictures_of_two_sizes_are_refused(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "film.mp4", 5) as film:
        film.write(pictures(1, 300, 300)[0])
        with pytest.raises(FootplateError, match="a picture of shape"):
            film.write(pictures(1, 302, 300)[0])


def test_only_mp4_is_written() -> None:
    with pytest.raises(FootplateError) as refused:
        VideoFile(Path("game.gif"), 5)
    assert str(refused.value) == "--video: game.gif: only .mp4 files are written; call it game.mp4"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.mkdir()
    with pytest.raises(FootplateError) as refused:
        VideoFile(path, 5)
    assert str(refused.value) == f"--video: {path}: cannot be written (Is a directory); choose another place"
