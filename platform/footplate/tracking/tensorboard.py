"""TensorBoard: the same rows, for whoever has `tensorboard --logdir runs` open."""

from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from footplate.step import Activity, Medium, Picture, Table


class TensorBoardTracker:
    """A tracker that writes TensorBoard's event files into `<run>/tensorboard`, over the number of updates."""

    def __init__(self, folder: Path, resumed_from: int) -> None:
        # purge_step hides what a killed process wrote after the checkpoint that the run goes on from.
        self._writer = SummaryWriter(str(folder), purge_step=resumed_from + 1 if resumed_from else None)

    def row(self, row: Mapping[str, float]) -> None:
        """One event with every scalar: a sixth of the time that `add_scalar` takes for each."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "update"]
        file_writer = self._writer.file_writer
        assert file_writer is not None  # until the writer is closed
        file_writer.add_summary(Summary(value=values), int(row["update"]))

    def media(self, update: int, media: Mapping[str, Medium]) -> None:
        """Tables as Markdown, pictures as images; of a video the path, since TensorBoard plays no files."""
        for name, medium in media.items():
            if isinstance(medium, Table):
                self._writer.add_text(name, _as_markdown(medium), update)
            elif isinstance(medium, Picture):
                self._writer.add_image(name, medium.pixels, update, dataformats="HWC")
            else:
                self._writer.add_text(name, str(medium.path), update)

    def message(self, text: str) -> None:
        """Nothing: log.txt holds them."""

    def activity(self, activity: Activity) -> None:
        """Nothing."""

    def close(self, outcome: str) -> None:
        """Write what is pending."""
        self._writer.close()


def _as_markdown(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
