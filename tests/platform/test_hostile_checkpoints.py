"""Whatever somebody puts into a checkpoint, none of it is run: it is refused in one line that names the file."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from footplate.checkpoint import ELSEWHERE, Checkpoint, seal
from footplate.errors import CheckpointError, FootplateError
from footplate.folder import RunFolder, create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate.storage import Storage

PLAIN = ("drive.pt", "order.pt", "update.pt", "vocabulary.pt")


class Bomb:
    """What unpickles by creating a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


FORGERIES: dict[str, Callable[[Bomb, Path], object]] = {
    "a pickle": lambda bomb, path: path.write_bytes(pickle.dumps({"value": bomb})),
    "torch's archive": lambda bomb, path: torch.save({"value": bomb}, path),
    "torch's old format": lambda bomb, path: torch.save({"value": bomb}, path, _use_new_zipfile_serialization=False),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    job = load_job("copy-transformer", ["threads=1", "updates=2", "evaluate.sentences=4"])
    folder = create_run(tmp_path_factory.mktemp("trained"), "run", "copy")
    folder.write_job(job.to_yaml())
    launch(job, folder)
    return folder


@pytest.fixture
def folder(trained: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(trained.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def forge(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file of a checkpoint, and what the manifest says of it."""
    write(path)
    manifest = json.loads((path.parent / "manifest.json").read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest["files"][path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    manifest["seal"] = seal(manifest)
    (path.parent / "manifest.json").write_text(json.dumps(manifest))


def test_these_are_all_the_files_that_a_checkpoint_has(folder: RunFolder) -> None:
    files = {path.name for path in (folder.checkpoints / "000002").iterdir()}
    assert files == {*PLAIN, "model.safetensors", "manifest.json"}


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("file", [*PLAIN, "model.safetensors", "manifest.json"])
def test_code_in_a_file_is_not_run(folder: RunFolder, tmp_path: Path, file: str, forgery: str) -> None:
    mark, path = tmp_path / "exploded", folder.checkpoints / "000002" / file
    if file == "manifest.json":
        FORGERIES[forgery](Bomb(mark), path)
    else:
        forge(path, lambda path: FORGERIES[forgery](Bomb(mark), path))
    with pytest.raises(CheckpointError) as raised:
        launch(load_job(folder.job), folder)
    message = str(raised.value)
    if file in PLAIN:
        assert message == f"{path}: cannot be read as plain data; nothing in it was run"
    elif file == "manifest.json":
        assert message == f"{folder.checkpoints}: none of its checkpoints can be used; move it away to start over"
    else:
        assert message.startswith(f"{path}: cannot be read (Error while deserializing header: ")
    assert "\n" not in message
    assert not mark.exists()


@pytest.mark.parametrize(
    "state",
    [{}, [], {"source": torch.zeros(10, dtype=torch.uint8)}, {"source": "not a model"}, {"target": torch.zeros(1)}],
    ids=["empty", "a list", "bytes of no model", "text", "another side"],
)
def test_a_vocabulary_that_is_none_is_refused_in_one_line(folder: RunFolder, state: Any) -> None:
    forge(folder.checkpoints / "000002" / "vocabulary.pt", lambda path: torch.save(state, path))
    with pytest.raises(FootplateError) as raised:
        launch(load_job(folder.job), folder)
    assert str(raised.value).startswith(f"{folder.checkpoints / '000002'}: vocabulary: does not fit this job (")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["../../precious", "..", ".", "", "a/b", "/precious", "nothing\0"])
@pytest.mark.parametrize("kind", ["files", "segments"])
@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["here", "elsewhere"])
def test_a_manifest_that_lists_what_lies_elsewhere_is_damaged_and_nothing_there_is_touched(
    tmp_path: Path, name: str, kind: str, is_elsewhere: bool
) -> None:
    precious, place = tmp_path / "run" / "precious", tmp_path / "run" / "checkpoints" / "000002"
    place.mkdir(parents=True)
    precious.write_text("mine")
    theirs = tmp_path / "bucket" / "checkpoints" / "000002"
    theirs.mkdir(parents=True)
    (theirs.parent.parent / "precious").write_text("theirs")
    sha256 = hashlib.sha256(b"theirs").hexdigest()
    manifest: dict[str, Any] = {"format": 1, "update": 2, "files": {}}
    manifest[kind] = {name: {"bytes": 6, "sha256": sha256} if kind == "files" else 6}
    manifest["seal"] = seal(manifest)
    (place / "manifest.json").write_text(json.dumps(manifest))
    if is_elsewhere:
        (place / ELSEWHERE).write_text(f"file://{theirs}")
    with pytest.raises(CheckpointError) as raised:
        Checkpoint(place).manifest  # noqa: B018 - reading it verifies every file
    assert str(raised.value) == (
        f"{place / 'manifest.json'}: the manifest is missing or damaged; this checkpoint cannot be used"
    )
    assert precious.read_text() == "mine"


def test_an_object_whose_name_leads_out_of_its_folder_is_passed_over() -> None:
    storage = Storage("memory://hostile/run")
    for name in ("evaluations/best/scores.json", "evaluations/../../../bashrc", "evaluations/.."):
        storage.write(name, b"x")
    assert storage.sizes() == {"evaluations/best/scores.json": 1}
    storage.delete(["evaluations/best/scores.json"])
