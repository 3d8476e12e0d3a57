"""Storage by URL: what runs need of an object store, and one line for whatever goes wrong there.

An object appears whole or not at all, can be replaced as a whole, and cannot be renamed or appended to. fsspec speaks
the protocols; nothing here is imported by a run whose folder is a path.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

from footplate.errors import FootplateError
from footplate.folder import refuse_password

SECONDS_TO_ANSWER = 20.0
"""How long a command waits for the first answer of a storage."""

READ_AT_ONCE = 16

_BOTOCORE = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 1}}
"""Its own waits add up to minutes; whoever calls tries again anyway."""


class StorageError(FootplateError):
    """A storage that is not there, does not answer, or refuses: `url: what; what to do.`"""


class Storage:
    """The objects below a URL, by their relative names (`checkpoints/000400/manifest.json`).

    Every method raises StorageError, in one line, where the storage fails; what it has answered before is never
    cached. Making one opens no connection, and raises StorageError where the protocol has no package,
    FootplateError for a password in the URL.
    """

    def __init__(self, url: str) -> None:
        refuse_password(url)
        protocol, _, place = url.partition("://")
        if not place.strip("/"):
            raise StorageError(f"{url}: names no place; give one behind the slashes, such as s3://BUCKET/FOLDER")
        self.url = url.rstrip("/")
        self._files = _file_system(self.url, protocol)
        self._root = str(self._files._strip_protocol(self.url)).rstrip("/")
        self._renames = protocol in ("file", "local")  # a disk: a file is there before its bytes are

    def below(self, name: str) -> "Storage":
        """The storage of what lies under a name."""
        return Storage(f"{self.url}/{name}")

    def check(self) -> None:
        """Return when the storage has answered. Raises StorageError where it has not, within seconds."""
        failure: list[BaseException] = []

        def ask() -> None:
            try:
                self.names()
            except BaseException as error:
                failure.append(error)

        asking = threading.Thread(target=ask, name="storage", daemon=True)
        asking.start()
        asking.join(SECONDS_TO_ANSWER)
        if asking.is_alive():
            raise StorageError(
                f"{self.url}: has not answered for {SECONDS_TO_ANSWER:g} seconds; check its address and the network"
            )
        if failure:
            raise failure[0]

    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None where there is none."""
        try:
            with self._explained(name):
                return bytes(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """The bytes of several objects, some at a time; without those that are not there."""
        with ThreadPoolExecutor(READ_AT_ONCE, thread_name_prefix="storage") as readers:
            contents = list(readers.map(self.read, names))
        return {name: content for name, content in zip(names, contents, strict=True) if content is not None}

    def write(self, name: str, content: bytes) -> None:
        """Make or replace an object."""
        with self._writing(name), self._place(name) as path:
            self._files.pipe_file(path, content)

    def create(self, name: str, content: bytes) -> bool:
        """Make an object unless there is one; whether it was made.

        Of two who try at once one succeeds: on S3 (`If-None-Match`), in memory and on a disk. Where fsspec only looks
        before it writes, two that come within milliseconds of each other both succeed.
        """
        try:
            with self._writing(name):
                if self._renames:
                    Path(self._path(name)).parent.mkdir(parents=True, exist_ok=True)
                    with self._files.open(self._path(name), "xb") as file:
                        file.write(content)
                else:
                    self._files.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def upload(self, path: Path, name: str) -> None:
        """Make or replace an object from a file. Raises FileNotFoundError where there is no file."""
        path.stat()
        with self._writing(name), self._place(name) as place:
            self._files.put_file(str(path), place)

    def download(self, name: str, path: Path) -> None:
        """Write an object to a file, which appears whole; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}-{uuid4().hex}")
        try:
            with self._writing(name):
                self._files.get_file(self._path(name), str(beside))
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    def sizes(self, folder: str = "") -> dict[str, int]:
        """The names of all objects below a folder, however deep, with their bytes.

        An object may be called `../x`, which as a path on a disk would lead out of the run: such a one is passed over.
        """
        with self._explained(folder):
            self._files.invalidate_cache()
            try:
                found = self._files.find(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
        sizes = {self._name(path): int(entry["size"] or 0) for path, entry in found.items()}
        hidden = {name for name in sizes if name.rpartition("/")[2].startswith(".") or ".." in name.split("/")}
        return {name: size for name, size in sizes.items() if name not in hidden}

    def names(self) -> list[str]:
        """What lies directly below the URL."""
        with self._explained():
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError as error:
                if "specified bucket" in str(error):  # an empty folder is none, a bucket that is missing is a mistake
                    raise explained(self.url, error) from error
                return []
        return sorted({self._name(path).split("/")[0] for path in found} - {""})

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects, one after the other; those that are not there are passed over."""
        for name in names:
            try:
                with self._explained(name):
                    self._files.rm_file(self._path(name))
            except FileNotFoundError:
                continue

    def _url(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _name(self, path: str) -> str:
        return path[path.index(self._root) + len(self._root) :].strip("/")

    @contextmanager
    def _place(self, name: str) -> Iterator[str]:
        """Where to write an object, so that it appears whole."""
        if not self._renames:
            yield self._path(name)
            return
        path = Path(self._path(name))
        beside = path.with_name(f".{path.name}-{uuid4().hex}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield str(beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    @contextmanager
    def _explained(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError, FootplateError):
            raise
        except Exception as error:  # each protocol has its own errors, and not all of them are OSErrors
            raise explained(self._url(name), error) from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            with self._explained(name):
                yield
        except FileNotFoundError as error:
            raise explained(self._url(name), error) from error


def _file_system(url: str, protocol: str) -> Any:
    try:
        if protocol in ("s3", "s3a"):
            return fsspec.filesystem(protocol, use_listings_cache=False, config_kwargs=_BOTOCORE)
        if protocol in ("file", "local"):
            return fsspec.filesystem(protocol, auto_mkdir=True)
        return fsspec.filesystem(protocol)
    except ImportError as error:
        if protocol in ("s3", "s3a"):
            raise StorageError(f"{url}: s3fs is not installed; pip install 'footplate[s3]'") from error
        raise StorageError(f"{url}: {protocol}:// needs a package that is not installed; {error}") from error
    except ValueError as error:
        if "rotocol" not in str(error):
            raise explained(url, error) from error
        raise StorageError(
            f"{url}: {protocol}:// is no protocol that fsspec knows; use s3://, gs://, abfs:// or a path"
        ) from error
    except Exception as error:
        raise explained(url, error) from error


def explained(url: str, error: BaseException) -> StorageError:
    """What a protocol's error means to who gave the URL."""
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if "redentials" in type(error).__name__:
        return StorageError(
            f"{url}: no credentials for it are found here ({text}); set them as its own tools take them, "
            "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(error, PermissionError):
        return StorageError(f"{url}: access is refused ({text}); use credentials that may read and write there")
    if isinstance(error, FileNotFoundError) and "specified bucket" in text:
        return StorageError(f"{url}: there is no such bucket; create it, or name another")
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{url}: is not there, or nothing that it could lie in ({text}); check the address")
    return StorageError(f"{url}: does not answer as it should ({text}); check the address and the network")
