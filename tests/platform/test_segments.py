"""Large parts are saved in segments: written once, shared, verified, freed with the last checkpoint that lists one."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from footplate.checkpoint import CheckpointStore
from footplate.errors import CheckpointError, TrainingError
from footplate.segments import Segments


class Pages:
    """A part of some pages, each a segment."""

    def __init__(self, *pages: bytes) -> None:
        self.pages = list(pages)

    def save_to(self, segments: Segments) -> dict[str, Any]:
        return {"names": [segments.write(page) for page in self.pages]}

    def load_from(self, state: Mapping[str, Any], segments: Segments) -> None:
        self.pages = [segments.read(name) for name in state["names"]]


def store_with(folder: Path, *saves: list[bytes], **keep: Any) -> tuple[CheckpointStore, list[str]]:
    """The n-th save is that of update n."""
    reports: list[str] = []
    store = CheckpointStore(folder, reports.append, **({"keep_last": 99} | keep))
    for update, pages in enumerate(saves, start=1):
        store.save(update, {"pages": Pages(*pages)})
    store.wait()
    return store, reports


def contents(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in (folder / "segments").iterdir()}


def test_what_two_checkpoints_share_is_written_once(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, [b"old", b"both"])
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "segments").iterdir()}
    store.save(2, {"pages": Pages(b"both", b"new")})
    store.wait()
    assert contents(tmp_path) == {b"old", b"both", b"new"}
    assert all((tmp_path / "segments" / name).stat().st_mtime_ns == time for name, time in before.items())
    for update, pages in ((1, [b"old", b"both"]), (2, [b"both", b"new"])):
        restored = Pages()
        store.at(update).restore({"pages": restored})
        assert restored.pages == pages


def test_what_is_saved_is_the_state_at_the_call_not_at_the_write(tmp_path: Path) -> None:
    part, store = Pages(b"then"), CheckpointStore(tmp_path)
    store.save(1, {"pages": part})
    part.pages[0] = b"now"
    store.close()
    store.at(1).restore({"pages": part})
    assert part.pages == [b"then"]


def test_a_segment_goes_with_the_last_checkpoint_that_lists_it(tmp_path: Path) -> None:
    store_with(tmp_path, [b"1", b"12"], [b"12", b"23"], [b"23", b"3"], keep_last=2, keep_best=0)
    assert contents(tmp_path) == {b"12", b"23", b"3"}


def test_what_a_killed_writer_left_is_swept_and_never_seen(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, [b"here"])
    Segments(tmp_path).write(b"written, and then the writer was killed before the manifest")
    (tmp_path / "segments" / ".half").write_bytes(b"ha")
    assert store.updates() == [1]
    store.sweep()
    assert contents(tmp_path) == {b"here"}


def test_nothing_is_swept_while_a_manifest_can_not_be_read(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, [b"1"], [b"2"])
    (tmp_path / "000001" / "manifest.json").write_text("{}")
    store.sweep()
    assert contents(tmp_path) == {b"1", b"2"}


def test_who_only_wants_the_weights_reads_no_segment(tmp_path: Path) -> None:
    store_with(tmp_path, [b"a replay of gigabytes"])
    (path,) = (tmp_path / "segments").iterdir()
    path.rename(path.with_name("elsewhere"))
    checkpoint = CheckpointStore(tmp_path, segments=False).newest()
    assert checkpoint is not None
    assert checkpoint.update == 1
    with pytest.raises(CheckpointError) as refused:  # a part that does read it is still told the truth
        checkpoint.restore({"pages": Pages()})
    assert str(refused.value) == f"{path}: is missing or cannot be read; this checkpoint cannot be used"


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_checkpoint_with_a_damaged_segment_is_reported_and_the_one_before_is_used(
    tmp_path: Path, damage: str
) -> None:
    store, reports = store_with(tmp_path, [b"old"], [b"new"])
    (name,) = json.loads((tmp_path / "000002" / "manifest.json").read_text())["segments"]
    path = tmp_path / "segments" / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"nEw")
    newest = store.newest()
    assert newest is not None
    assert newest.update == 1
    what = {
        "missing": "is missing or cannot be read",
        "changed": "is damaged (its bytes are not those that were written)",
    }[damage]
    assert reports == [f"{path}: {what}; this checkpoint cannot be used; trying the one before"]
    store.save(2, {"pages": Pages(b"new")})  # the damaged file is in the way
    store.close()
    assert store.at(2).update == 2


def test_a_segment_that_is_damaged_when_it_is_read_is_named(tmp_path: Path) -> None:
    segments = Segments(tmp_path)
    name = segments.write(b"page")
    (segments.folder / name).write_bytes(b"pagE")
    with pytest.raises(CheckpointError) as raised:
        segments.read(name)
    assert str(raised.value) == (
        f"{segments.folder / name}: is damaged (its bytes are not those that were written); "
        "this checkpoint cannot be used"
    )
    with pytest.raises(CheckpointError) as raised:
        segments.read("0" * 64)
    assert str(raised.value) == (
        f"{segments.folder / ('0' * 64)}: is missing or cannot be read; this checkpoint cannot be used"
    )


def test_a_full_disk_is_reported_and_the_third_time_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reports = store_with(tmp_path, [b"kept"])

    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        for update in (2, 3):
            store.save(update, {"pages": Pages(b"new")})
        with pytest.raises(TrainingError):
            store.save(4, {"pages": Pages(b"new")})
    assert reports == [
        f"{tmp_path / f'00000{update}'}: could not be written (No space left on device); training goes on, "
        "the checkpoint before stays"
        for update in (2, 3)
    ]
    assert store.updates() == [1]
    assert contents(tmp_path) == {b"kept"}


def test_a_part_without_segments_leaves_no_folder_for_them(tmp_path: Path) -> None:
    store_with(tmp_path, [])
    assert not (tmp_path / "segments").exists()
