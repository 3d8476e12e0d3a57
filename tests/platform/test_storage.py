"""Storage by URL: objects are whole, one of two who make one succeeds, and what goes wrong is one line."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from footplate import storage as storages
from footplate.errors import FootplateError
from footplate.storage import Storage, StorageError, explained

sys.path.append(str(Path(__file__).parent))
from shaky_storage import ShakyFileSystem


@pytest.fixture(params=["shaky", "file"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    ShakyFileSystem.reset()
    yield Storage("shaky://bucket/runs/" if request.param == "shaky" else f"file://{tmp_path}/runs")
    ShakyFileSystem.reset()


def test_what_is_written_is_read_listed_and_deleted(storage: Storage, tmp_path: Path) -> None:
    assert (storage.names(), storage.sizes(), storage.read("a/x")) == ([], {}, None)
    storage.check()
    storage.write("a/x", b"one")
    storage.write("a/x", b"other")
    (tmp_path / "local").write_bytes(b"a file")
    storage.upload(tmp_path / "local", "b [1]*/y?")
    assert storage.read("a/x") == b"other"
    assert storage.read_all(["b [1]*/y?", "a/x", "missing"]) == {"b [1]*/y?": b"a file", "a/x": b"other"}
    assert storage.sizes() == {"a/x": 5, "b [1]*/y?": 6}
    assert storage.sizes("a") == {"a/x": 5}
    assert storage.names() == ["a", "b [1]*"]
    storage.download("a/x", tmp_path / "new" / "x")
    assert (tmp_path / "new" / "x").read_bytes() == b"other"
    storage.delete(["a/x", "missing"])
    assert storage.below("a").sizes() == {}
    with pytest.raises(FileNotFoundError):
        storage.upload(tmp_path / "gone", "z")


def test_an_object_is_made_once(storage: Storage) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda number: storage.create("lease/1", str(number).encode()), range(8)))
    assert made.count(True) == 1
    assert storage.read("lease/1") == str(made.index(True)).encode()


def test_a_file_on_a_disk_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(f"file://{tmp_path}")
    storage.write("x", b"before")

    def stop_half_way(path: str, content: bytes) -> None:
        Path(path).write_bytes(content[:2])
        raise OSError("No space left on device")

    monkeypatch.setattr(storage._files, "pipe_file", stop_half_way)
    with pytest.raises(StorageError):
        storage.write("x", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert storage.read("x") == b"before"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("xyz://a/b", "xyz:// is no protocol that fsspec knows; use s3://, gs://, abfs:// or a path"),
        ("s3://", "names no place; give one behind the slashes, such as s3://BUCKET/FOLDER"),
        ("memory:///", "names no place; give one behind the slashes, such as s3://BUCKET/FOLDER"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused(url: str, problem: str) -> None:
    with pytest.raises(StorageError) as raised:
        Storage(url)
    assert str(raised.value) == f"{url}: {problem}"


@pytest.mark.parametrize("secret", ["geheim", "ge/heim", "ge@heim"])
def test_a_password_in_a_url_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(FootplateError) as raised:
        Storage(f"s3://me:{secret}@bucket/runs")
    assert str(raised.value) == (
        "s3://...@bucket/runs: holds a password, which others see; "
        "give it to the storage by the environment, or by a file of its own"
    )


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import _registry

    for protocol in ("s3", "gs"):
        monkeypatch.delitem(_registry, protocol, raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StorageError) as raised:
        Storage("s3://bucket/runs")
    assert str(raised.value) == "s3://bucket/runs: s3fs is not installed; pip install 'footplate[s3]'"
    with pytest.raises(StorageError) as raised:
        Storage("gs://bucket/runs")
    assert str(raised.value) == (
        "gs://bucket/runs: gs:// needs a package that is not installed; Please install gcsfs to access Google Storage"
    )


def test_a_storage_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(storages, "SECONDS_TO_ANSWER", 0.2)
    storage, over = Storage("shaky://bucket/runs"), threading.Event()
    monkeypatch.setattr(storage, "names", lambda: over.wait(60))
    with pytest.raises(StorageError) as raised:
        storage.check()
    over.set()
    assert str(raised.value) == (
        "shaky://bucket/runs: has not answered for 0.2 seconds; check its address and the network"
    )


class NoCredentialsError(Exception):
    """Called as botocore's."""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("a\nb"), "s3://b/f: does not answer as it should (a b); check the address and the network"),
        (TimeoutError(), "s3://b/f: does not answer as it should (TimeoutError); check the address and the network"),
        (PermissionError("Forbidden"),
         "s3://b/f: access is refused (Forbidden); use credentials that may read and write there"),
        (FileNotFoundError("The specified bucket does not exist"),
         "s3://b/f: there is no such bucket; create it, or name another"),
        (NoCredentialsError("none"),
         "s3://b/f: no credentials for it are found here (none); set them as its own tools take them, "
         "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)  # fmt: skip
def test_what_goes_wrong_is_one_line(error: Exception, line: str) -> None:
    assert str(explained("s3://b/f", error)) == line
