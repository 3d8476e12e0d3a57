"""Checkpoints exist when their manifest does, come back exactly, and run no code."""

import json
import os
import pickle
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from footplate.checkpoint import Checkpoint, CheckpointStore, seal
from footplate.errors import CheckpointError, TrainingError


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.output = nn.Linear(3, 5, bias=False)
        self.output.weight = self.embedding.weight
        self.register_buffer("steps", torch.tensor(7))


class Number:
    """The smallest part that is not a module."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "pair": (1.5, None)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def store_with(folder: Path, updates: list[int], **keep: Any) -> tuple[CheckpointStore, list[str]]:
    reports: list[str] = []
    store = CheckpointStore(folder, reports.append, **({"keep_last": 99} | keep))
    for update in updates:
        store.save(update, {"model": Tied(), "number": Number(update)}, score=float(update % 3))
    store.wait()
    return store, reports


def test_every_part_comes_back_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(1)
    saved, restored, number = Tied(), Tied(), Number()
    store = CheckpointStore(tmp_path)
    store.save(3, {"model": saved, "number": Number(42)})
    store.close()
    checkpoint = store.at(3)
    checkpoint.restore({"model": restored, "number": number})
    assert torch.equal(restored.embedding.weight, saved.embedding.weight)
    assert (number.value, checkpoint.update, checkpoint.score) == (42, 3, None)


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, [1])
    weights = tmp_path / "000001" / "model.safetensors"
    assert weights.stat().st_size < 2 * 5 * 3 * 4 + 200
    restored = Tied()
    store.at(1).restore({"model": restored})
    assert restored.output.weight is restored.embedding.weight


def test_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    model = Tied()
    for folder in ("a", "b"):
        store = CheckpointStore(tmp_path / folder)
        store.save(1, {"model": model})
        store.close()
    first, second = ((tmp_path / folder / "000001" / "model.safetensors").read_bytes() for folder in "ab")
    assert first == second


def test_what_is_saved_is_the_state_at_the_call_not_at_the_write(tmp_path: Path) -> None:
    model = Tied()
    before = model.embedding.weight.detach().clone()
    store = CheckpointStore(tmp_path)
    store.save(1, {"model": model})
    with torch.no_grad():
        model.embedding.weight.add_(1)
    store.close()
    assert torch.equal(store.at(1).load_module_state("model")["embedding.weight"], before)


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, [1, 2, 3, 4, 5, 6, 7], keep_last=2, keep_best=1)  # scores 1 2 0 1 2 0 1
    assert store.updates() == [5, 6, 7]
    best = store.best()
    assert best is not None
    assert best.update == 5


def test_folders_that_somebody_put_beside_them_are_none_and_stay(tmp_path: Path) -> None:
    for name in ("400", "0000400", "backup"):
        (tmp_path / name).mkdir()
    store, reports = store_with(tmp_path, [30, 40], keep_last=1)
    assert (store.updates(), reports) == ([40], [])
    assert {path.name for path in tmp_path.iterdir()} == {"000040", "400", "0000400", "backup"}


def test_lower_can_be_better(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, [1, 2, 3, 4], keep_last=1, keep_best=1, higher_is_better=False)
    assert store.updates() == [3, 4]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "manifest"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    store, reports = store_with(tmp_path, [1, 2])
    file = tmp_path / "000002" / ("manifest.json" if damage == "manifest" else "model.safetensors")
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(
            content[:-7] if damage != "flipped" else content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
        )
    newest = store.newest()
    assert newest is not None
    assert newest.update == 1
    what = {
        "missing": "is missing or cannot be read; this checkpoint cannot be used",
        "manifest": "the manifest is missing or damaged; this checkpoint cannot be used",
    }.get(damage, "is damaged (its bytes are not those that were written); this checkpoint cannot be used")
    assert reports == [f"{file}: {what}; trying the one before"]


def test_a_damaged_checkpoint_is_replaced_when_its_update_comes_again(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, [1, 2])
    (tmp_path / "000002" / "number.pt").write_bytes(b"broken")
    store.save(2, {"model": Tied(), "number": Number(2)})
    store.close()
    assert store.at(2).update == 2


def test_nothing_that_a_checkpoint_holds_is_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (Path.touch, (tmp_path / "exploded",))  # type: ignore[return-value]

    store, _ = store_with(tmp_path / "store", [1])
    crafted = tmp_path / "store" / "000001" / "number.pt"
    crafted.write_bytes(pickle.dumps(Bomb()))
    manifest = json.loads((crafted.parent / "manifest.json").read_text())
    import hashlib

    manifest["files"]["number.pt"] = {
        "bytes": crafted.stat().st_size,
        "sha256": hashlib.sha256(crafted.read_bytes()).hexdigest(),
    }
    manifest["seal"] = seal(manifest)
    (crafted.parent / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError) as raised:
        store.at(1).restore({"number": Number()})
    assert str(raised.value) == f"{crafted}: cannot be read as plain data; nothing in it was run"
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_of_another_kind_of_run_is_refused(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, [1])
    with pytest.raises(CheckpointError) as raised:
        store.at(1).restore({"replay": Number()})
    assert str(raised.value) == f"{tmp_path / '000001'}: has no replay.pt; it is a checkpoint of another kind of run"


@pytest.mark.parametrize(
    ("change", "misfit"),
    [
        (lambda model: nn.Embedding(4, 3), "its embedding.weight has shape (5, 3) where the job has (4, 3)"),
        (lambda model: nn.Sequential(model.embedding), "it has no embedding.0.weight"),
        (lambda model: nn.Identity(), "the job has no embedding.weight"),
    ],
    ids=["shape", "missing", "unexpected"],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, change: Callable[[Tied], Any], misfit: str
) -> None:
    store, _ = store_with(tmp_path, [1])
    model = Tied()
    model.embedding = change(model)
    with pytest.raises(CheckpointError) as raised:
        store.at(1).restore({"model": model})
    assert str(raised.value) == (
        f"{tmp_path / '000001'}: model: does not fit this job ({misfit}); use the settings that it was trained with"
    )


def test_what_a_killed_writer_left_is_swept_and_never_seen(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, [1])
    leftover = tmp_path / ".writing-000002"
    leftover.mkdir()
    (leftover / "manifest.json").write_text("{}")
    assert store.updates() == [1]
    store.sweep()
    assert not leftover.exists()


def test_a_folder_without_its_manifest_is_named_too(tmp_path: Path) -> None:
    store, reports = store_with(tmp_path, [1, 2])
    manifest = tmp_path / "000002" / "manifest.json"
    manifest.unlink()
    newest = store.newest()
    assert newest is not None
    assert newest.update == 1
    assert reports == [
        f"{manifest}: the manifest is missing or damaged; this checkpoint cannot be used; trying the one before"
    ]


def test_companions_reach_the_disk_before_the_checkpoint_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, place, synced = tmp_path / "metrics.jsonl", tmp_path / "checkpoints" / "000001", []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((Path(f"/proc/self/fd/{descriptor}").resolve(), place.exists()))

    monkeypatch.setattr(os, "fsync", noting)
    metrics.write_text("")
    store = CheckpointStore(place.parent, companions=[metrics])
    store.save(1, {"number": Number()})
    store.close()
    assert (metrics, False) in synced
    assert synced[-1] == (place.parent, True)


def test_a_second_snapshot_goes_where_the_first_was_and_holds_the_new_state(tmp_path: Path) -> None:
    model = Tied()
    store = CheckpointStore(tmp_path)
    for update in (1, 2):
        store.save(update, {"model": model})
        with torch.no_grad():
            model.embedding.weight.fill_(update)
    store.save(3, {"model": model})
    store.close()
    assert torch.equal(store.at(3).load_module_state("model")["output.weight"], torch.full((5, 3), 2.0))
    assert torch.equal(store.at(2).load_module_state("model")["output.weight"], torch.full((5, 3), 1.0))


def test_no_flipped_bit_of_a_manifest_is_believed(tmp_path: Path) -> None:
    store_with(tmp_path, [1])
    path = tmp_path / "000001" / "manifest.json"
    content, written = path.read_bytes(), Checkpoint(tmp_path / "000001").manifest
    refused = 0
    for position in range(0, 8 * len(content), 5):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            assert Checkpoint(tmp_path / "000001").manifest == written  # white space
        except CheckpointError:
            refused += 1
    assert refused > len(content)


def test_a_checkpoint_under_another_number_is_refused(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, [1])
    (tmp_path / "000001").rename(tmp_path / "000007")
    with pytest.raises(CheckpointError, match="the manifest is missing or damaged"):
        _ = store.at(7).update


def test_a_folder_of_checkpoints_that_is_a_file_starts_nothing_over(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError) as raised:
        CheckpointStore(tmp_path / "checkpoints").newest()
    assert str(raised.value) == (
        f"{tmp_path / 'checkpoints'}: cannot be read (Not a directory); make it readable, or move it away to start over"
    )


def test_a_newer_format_says_so(tmp_path: Path) -> None:
    store_with(tmp_path, [1])
    path = tmp_path / "000001" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError) as raised:
        _ = Checkpoint(tmp_path / "000001").update
    assert str(raised.value) == f"{path}: format 99 is not 1; read it with the Footplate that wrote it"


def test_a_checkpoint_knows_the_one_before_it_even_when_that_is_gone(tmp_path: Path) -> None:
    store, _ = store_with(tmp_path, [1, 2, 3, 4], keep_last=2, keep_best=1)  # 2 is the best and stays
    assert store.updates() == [2, 3, 4]
    assert [store.at(update).previous for update in store.updates()] == [1, 2, 3]


def test_a_score_that_is_not_a_number_is_no_score(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=1)
    for update, score in enumerate([float("nan"), 5.0, 3.0, 2.0], start=1):
        store.save(update, {"number": Number()}, score=score)
    store.close()
    assert store.updates() == [2, 4]
    assert "NaN" not in (tmp_path / "000002" / "manifest.json").read_text()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(tmp_path: Path) -> None:
    store, reports = store_with(tmp_path, [1, 2])
    for update in (1, 2):
        (tmp_path / f"00000{update}" / "number.pt").unlink()
    with pytest.raises(CheckpointError) as raised:
        store.newest()
    assert str(raised.value) == f"{tmp_path}: none of its checkpoints can be used; move it away to start over"
    assert [report.endswith("trying the one before") for report in reports] == [True, False]


def test_a_damaged_best_checkpoint_is_reported_too(tmp_path: Path) -> None:
    store, reports = store_with(tmp_path, [1, 2])  # scores 1 and 2
    (tmp_path / "000002" / "number.pt").unlink()
    best = store.best()
    assert best is not None
    assert best.update == 1
    assert reports[0].endswith("trying the next best")


class Anything(Number):
    def __init__(self, value: Any = None) -> None:
        self.value = value


def test_every_kind_of_plain_value_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {
        1: [None, True, 2, 0.5, 1j, "text", b"bytes", bytearray(b"more"), {1, "a"}, {(1, 2): 3.0}],
        "torch": (torch.float16, torch.device("cpu"), torch.arange(3)),
    }
    store = CheckpointStore(tmp_path)
    store.save(1, {"anything": Anything(value)})
    store.close()
    restored = store.at(1).load_state("anything")["value"]
    assert restored[1] == value[1]
    assert restored["torch"][:2] == value["torch"][:2]
    assert torch.equal(restored["torch"][2], torch.arange(3))


@pytest.mark.parametrize(
    "value",
    [np.float64(1.5), [np.int64(1)], {np.int64(1): 2}, {(1, np.int64(1)): 2}, {np.str_("a")}, Path(), np.zeros(1),
     frozenset({1}), deque([1])],
    ids=lambda value: repr(value),
)  # fmt: skip
def test_what_could_be_written_but_not_read_back_is_refused_when_it_is_saved(tmp_path: Path, value: Any) -> None:
    store = CheckpointStore(tmp_path)
    with pytest.raises(TrainingError) as raised:
        store.save(1, {"anything": Anything(value)})
    assert re.fullmatch(
        r"anything: its state holds a \w+, which cannot be read back; make it a plain number or a tensor",
        str(raised.value),
    )
    store.close()
    assert store.updates() == []
