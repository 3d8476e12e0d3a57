"""What a reader finds at a URL: only complete checkpoints, and never fewer rows than the newest of them knows."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path, PosixPath
from typing import IO, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from footplate.checkpoint import CheckpointStore
from footplate.folder import RunFolder
from footplate.segments import Segments
from footplate.storage import Storage, StorageError
from footplate.upload import Upload

sys.path.insert(0, str(Path(__file__).parent))
from shaky_storage import ShakyFileSystem

from footplate import pieces
from footplate.pieces import Pieces, read_pieces

URL = "shaky://bucket/runs/run"


@pytest.fixture(autouse=True)
def storage() -> Iterator[Storage]:
    ShakyFileSystem.reset()
    yield Storage(URL)
    ShakyFileSystem.reset()


def joined(storage: Storage, folder: str) -> bytes:
    return b"".join(content for _, content in read_pieces(storage, folder))


def row(update: int, version: int = 0) -> bytes:
    return json.dumps({"update": update, "train/loss": version}).encode() + b"\n"


class Run:
    """A run folder that trains nothing: rows and checkpoints, as a run writes them."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        path.mkdir(parents=True, exist_ok=True)
        self.folder.job.write_text("task: x\n")
        self.store = CheckpointStore(self.folder.checkpoints, keep_last=2, keep_best=0)

    def train(self, update: int) -> None:
        with self.folder.metrics.open("ab") as file:
            file.write(row(update))
        segments = Segments(self.folder.checkpoints)
        segments.write(f"frames of {update}".encode())
        segments.write(f"frames of {update - 1}".encode())
        content = f"weights of {update}"
        self.store.save_files(
            update, {"model": lambda path: path.write_text(content), "other": lambda path: path.write_text("x")},
            segments=segments.listed,
        )  # fmt: skip
        self.store.wait()
        self.folder.write_status({"state": "running", "update": update})

    def cut_to(self, update: int) -> None:
        """As a run that goes on from a checkpoint: the file is replaced."""
        kept = b"".join(line for line in self.folder.metrics.read_bytes().splitlines(keepends=True)[:update])
        beside = self.folder.path / "beside"
        beside.write_bytes(kept)
        beside.replace(self.folder.metrics)


def check_what_a_reader_finds(storage: Storage) -> int:
    """The newest checkpoint's update, 0 without any; all of them are whole, and the rows reach so far."""
    sizes = storage.sizes()
    newest = 0
    for name in [name for name in sizes if name.endswith("manifest.json")]:
        manifest = json.loads(storage.read(name) or b"")
        for file, entry in manifest["files"].items():
            content = storage.read(name.replace("manifest.json", file))
            assert content is not None, f"{name} without {file}"
            assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        for segment in manifest["segments"]:
            assert hashlib.sha256(storage.read(f"checkpoints/segments/{segment}") or b"").hexdigest() == segment
        newest = max(newest, manifest["update"])
    rows = [json.loads(line) for line in joined(storage, "metrics").splitlines()]
    assert [each["update"] for each in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= newest
    return newest


def test_a_storage_that_dies_at_any_write_leaves_only_complete_checkpoints_and_the_next_pass_completes_it(
    tmp_path: Path, storage: Storage
) -> None:
    calls, died = 0, True
    while died:
        ShakyFileSystem.reset()
        run = Run(tmp_path / f"run-{calls}")
        upload = Upload(run.folder, storage)
        run.train(1)
        run.train(2)
        upload.bring_up()
        run.train(3)
        run.train(4)
        ShakyFileSystem.calls_left = calls
        try:
            upload.bring_up()
        except StorageError:
            died = True
        else:
            died = False
        ShakyFileSystem.calls_left = None
        assert check_what_a_reader_finds(storage) in (2, 3, 4)
        for again in (upload, Upload(run.folder, storage)):  # this process, and one after a kill
            again.bring_up()
            assert check_what_a_reader_finds(storage) == 4
            names = set(storage.sizes())
            here = {
                path.relative_to(run.folder.path).as_posix() for path in run.folder.path.rglob("*") if path.is_file()
            }
            assert names == here - {"metrics.jsonl"} | {"metrics/000000000000"}
        calls += 1
    assert calls > 15


def test_what_is_up_is_not_brought_up_again(tmp_path: Path, storage: Storage) -> None:
    run = Run(tmp_path / "run")
    run.folder.samples.mkdir()
    (run.folder.samples / "a.json").write_text("{}")
    upload = Upload(run.folder, storage)
    run.train(1)
    upload.bring_up()
    ShakyFileSystem.uploads.clear()
    upload.bring_up()
    assert ShakyFileSystem.uploads == []
    Upload(run.folder, storage).bring_up()
    assert [name.removeprefix("/bucket/runs/run/") for name in ShakyFileSystem.uploads] == ["job.yaml", "status.json"]
    run.train(2)
    ShakyFileSystem.uploads.clear()
    upload.bring_up()
    assert len([name for name in ShakyFileSystem.uploads if "segments" in name]) == 1  # the other is shared


def test_what_is_up_beyond_the_checkpoint_that_a_run_went_on_from_is_deleted(tmp_path: Path, storage: Storage) -> None:
    run = Run(tmp_path / "run")
    for update in (1, 2, 3):
        run.train(update)
    (run.folder.checkpoints / "000003" / "manifest.json").write_text("damaged")
    storage.write("checkpoints/000003/manifest.json", b"damaged")
    storage.write("checkpoints/000003/model", b"damaged")
    Upload(run.folder, storage).bring_up()
    run.store.forget_after(2)
    run.cut_to(2)
    Upload(run.folder, storage).bring_up()
    assert check_what_a_reader_finds(storage) == 2
    assert not any("000003" in name for name in storage.sizes())
    run.train(3)
    Upload(run.folder, storage).bring_up()
    assert check_what_a_reader_finds(storage) == 3


def test_what_means_nothing_elsewhere_stays(tmp_path: Path, storage: Storage) -> None:
    run = Run(tmp_path / "run")
    for name in ("data/corpus.json", "wandb/x", "ray/x", ".hidden", "stop", "lock", "videos/a.mp4", "wandb.json"):
        (run.folder.path / name).parent.mkdir(exist_ok=True)
        (run.folder.path / name).write_text("x")
    Upload(run.folder, storage).bring_up()
    assert set(storage.sizes()) == {"job.yaml", "videos/a.mp4", "wandb.json"}


def test_a_checkpoint_that_is_deleted_while_it_goes_up_goes_up_whole(tmp_path: Path, storage: Storage) -> None:
    run = Run(tmp_path / "run")
    run.train(1)
    upload = Upload(run.folder, storage)
    pieces_up = upload._bring_up_what_grows

    def meanwhile() -> None:
        if (run.folder.path / ".uploading").exists() and run.store.updates() == [1]:
            for update in (2, 3, 4):
                run.train(update)
        pieces_up()

    upload._bring_up_what_grows = meanwhile  # type: ignore[method-assign]
    ShakyFileSystem.uploads.clear()
    upload.bring_up()
    went_up = [name.split("/")[-2] for name in ShakyFileSystem.uploads if name.endswith("manifest.json")]
    assert went_up == ["000001", "000004", "000003"]
    assert check_what_a_reader_finds(storage) == 4
    assert not any("000001" in name for name in storage.sizes())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["write", "cut", "up", "restart"]), st.integers(1, 12)), min_size=1, max_size=25)
)
@example([("write", 5), ("up", 2), ("cut", 1), ("write", 1), ("cut", 2), ("up", 1)])  # the second has the first's inode
def test_pieces_joined_are_the_file_whatever_was_written_cut_and_interrupted(actions: list[tuple[str, int]]) -> None:
    import tempfile

    ShakyFileSystem.reset()
    storage = Storage(URL)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", 100)
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(b"")
        lines: list[bytes] = []
        up = Pieces(storage, "metrics", path)
        least = 0  # what a checkpoint at the storage knows of: nothing is ever cut below it, or lost
        for version, (action, number) in enumerate(actions):
            if action == "write":
                lines += [row(len(lines) + 1 + each, version) for each in range(number)]
                with path.open("ab") as file:
                    file.write(b"".join(lines[-number:]))
            elif action == "cut":
                lines = lines[: max(least, min(3 * number, len(lines)))]
                beside = path.with_name("beside")
                beside.write_bytes(b"".join(lines))
                beside.replace(path)
            elif action == "restart":
                up = Pieces(storage, "metrics", path)
            else:
                ShakyFileSystem.calls_left = number
                try:
                    up.bring_up()
                    least = len(lines)
                except StorageError:
                    pass
                ShakyFileSystem.calls_left = None
            found = joined(storage, "metrics").splitlines(keepends=True)
            assert [json.loads(line)["update"] for line in found] == list(range(1, len(found) + 1))
            assert found[:least] == lines[:least]
        up.bring_up()
        assert joined(storage, "metrics") == b"".join(lines)
        assert all(size < 200 for size in storage.sizes("metrics").values())


class ReplacedOnce(PosixPath):
    """A file that is replaced as soon as it has been opened."""

    def open(self, *arguments: Any, **named: Any) -> IO[Any]:  # type: ignore[override]
        file = super().open(*arguments, **named)
        newer = self.with_name("newer")
        if newer.exists():
            newer.replace(self)
        return file


def test_a_file_that_is_replaced_while_it_is_read_is_known_to_be_another(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(row(1) + row(2))
    (tmp_path / "newer").write_bytes(row(1) + row(2, 7))
    uploaded = Pieces(storage, "metrics", ReplacedOnce(path))
    uploaded.bring_up()
    uploaded.bring_up()
    assert joined(storage, "metrics") == path.read_bytes()
