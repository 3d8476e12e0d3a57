"""Video files: pictures of an episode, one a step, as an mp4 that browsers and W&B play.

Axes: H, W height and width of a picture; its last axis is red, green, blue.
"""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from footplate.errors import FootplateError

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

_LEAST_HEIGHT = 300


class VideoFile:
    """An mp4 that is written picture by picture; use it in a `with`, at whose end the file is whole.

    Pictures lower than 300 pixels are enlarged by a whole factor, so that pixels stay square and sharp. The codec is
    H.264 where PyAV was built with it, else MPEG-4.
    """

    def __init__(self, path: Path, pictures_per_second: float) -> None:
        if path.suffix != ".mp4":
            raise FootplateError(
                f"--video: {path}: only .mp4 files are written; call it {path.with_suffix('.mp4').name}"
            )
        self.path = path
        self._rate = Fraction(pictures_per_second).limit_denominator(1000)
        self._container = self._open()
        self._stream: VideoStream | None = None
        self._shape: tuple[int, ...] = ()

    def write(self, picture_HW3: NDArray[np.uint8]) -> None:
        """Append a picture; all have the size of the first. Raises FootplateError for another."""
        from av import VideoFrame

        if self._stream is None:
            self._shape = picture_HW3.shape
            self._stream = self._begin(*_enlarged(picture_HW3).shape[:2])
        if picture_HW3.shape != self._shape:
            raise FootplateError(
                f"environment: render shows a picture of shape {picture_HW3.shape} after one of {self._shape}; "
                "draw all of one size"
            )
        frame = VideoFrame.from_ndarray(_enlarged(picture_HW3), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder still holds, and the index; without it no player opens the file."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> "OutputContainer":
        import av

        if not self.path.parent.is_dir():
            raise FootplateError(f"--video: {self.path}: {self.path.parent} is no folder; make it first")
        try:
            self.path.open("ab").close()  # av opens even a folder without a word
            return av.open(str(self.path), "w")
        except OSError as error:
            raise FootplateError(
                f"--video: {self.path}: cannot be written ({error.strerror}); choose another place"
            ) from error

    def _begin(self, height: int, width: int) -> "VideoStream":
        import av

        names: set[str] = av.codecs_available
        # Quality by a constant factor, not by a bit rate: flat screens of old games stay sharp and small.
        codec, options = ("libx264", {"crf": "18"}) if "libx264" in names else ("mpeg4", {"qscale": "2"})
        stream: Any = self._container.add_stream(codec, rate=self._rate, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        video: VideoStream = stream
        return video


def _enlarged(picture_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture as encoders take it: both sides even, by repeating the last row or column where one is odd."""
    factor = -(-_LEAST_HEIGHT // picture_HW3.shape[0])
    picture = picture_HW3.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
