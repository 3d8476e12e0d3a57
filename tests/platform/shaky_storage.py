"""A storage in memory that fails when it is told to: an fsspec protocol of its own, for tests."""

from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class ShakyFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """`calls_left` operations work, and the next ones fail; None: all work."""

    protocol = "shaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    calls_left: ClassVar[int | None] = None
    uploads: ClassVar[list[str]] = []

    @classmethod
    def reset(cls) -> None:
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.calls_left = None
        cls.uploads.clear()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("shaky://", "memory://")))

    def _count(self) -> None:
        if ShakyFileSystem.calls_left is not None:
            if ShakyFileSystem.calls_left <= 0:
                raise ConnectionError("the network is down")
            ShakyFileSystem.calls_left -= 1

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> Any:
        self._count()
        self.uploads.append(self._strip_protocol(path))
        return super().pipe_file(path, value, **kwargs)

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> Any:
        self._count()
        self.uploads.append(self._strip_protocol(rpath))
        return super().put_file(lpath, rpath, **kwargs)

    def rm_file(self, path: str) -> Any:
        self._count()
        return super().rm_file(path)

    def cat_file(self, path: str, **kwargs: Any) -> Any:
        self._count()
        return super().cat_file(path, **kwargs)

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> Any:
        self._count()
        return super().get_file(rpath, lpath, **kwargs)

    def find(self, path: str, **kwargs: Any) -> Any:
        self._count()
        return super().find(path, **kwargs)

    def ls(self, path: str, **kwargs: Any) -> Any:
        return super().ls(path, **kwargs)


fsspec.register_implementation("shaky", ShakyFileSystem, clobber=True)
