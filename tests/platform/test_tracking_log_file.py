import json
import re
from pathlib import Path

import numpy as np
from matplotlib.image import imread

from footplate.step import Activity, Picture, Table, Video
from footplate.tracking.log_file import LogFile, SampleFiles, medium_lines, without_stamp

TRANSLATIONS = Table(("source", "output"), [("Ein Mann [/b] schläft.", "A man sleeps."), ("Zwei", "Two")])


def test_messages_and_tables_become_lines_with_their_time(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log.txt")
    log.message("first\nsecond")
    log.row({"update": 1})
    log.activity(Activity("evaluating", 1, 2))
    log.media(7, {"eval/translations": TRANSLATIONS, "eval/video": Video(tmp_path / "seven.mp4")})
    log.close("finished")
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert [without_stamp(line) for line in lines] == [
        "first",
        "second",
        "eval/translations after update 7",
        "  1 source: Ein Mann [/b] schläft.",
        "    output: A man sleeps.",
        "  2 source: Zwei",
        "    output: Two",
        f"eval/video after update 7: {tmp_path}/seven.mp4",
        "finished",
    ]


def test_an_aligned_table_is_a_line_a_row() -> None:
    table = Table(("source words", "bleu"), [("1-4", "41.02"), ("all", "9")], aligned=True)
    assert medium_lines(table) == ["  source words  bleu", "  1-4           41.02", "  all           9"]


def test_a_resumed_run_goes_on_in_the_same_log(tmp_path: Path) -> None:
    for text in ("before", "after"):
        log = LogFile(tmp_path / "log.txt")
        log.message(text)
        log.close("stopped")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [without_stamp(line) for line in lines] == ["before", "stopped", "after", "stopped"]


def test_what_is_said_after_the_end_is_not_an_error(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log.txt")
    log.close("finished")
    log.message("a late warning")
    assert "late" not in (tmp_path / "log.txt").read_text()


def test_tables_are_kept_as_json_and_pictures_as_png_without_loss(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    samples = SampleFiles(tmp_path / "samples")
    samples.media(12, {"eval/translations": TRANSLATIONS, "eval/attention": Picture(pixels)})
    samples.media(1_000_000, {"eval/translations": TRANSLATIONS})
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "000012-eval-attention.png",
        "000012-eval-translations.json",
        "1000000-eval-translations.json",
    ]
    table = json.loads((tmp_path / "samples" / "000012-eval-translations.json").read_text(encoding="utf-8"))
    assert table["columns"] == ["source", "output"]
    assert table["rows"] == [["Ein Mann [/b] schläft.", "A man sleeps."], ["Zwei", "Two"]]
    read = imread(tmp_path / "samples" / "000012-eval-attention.png")
    assert np.array_equal(np.round(read[..., :3] * 255).astype(np.uint8), pixels)
