"""Footplate itself as a wheel, made of the files that run here: from a checkout or an installed package alike.

Building from source needs the source tree and hatchling; the package is always there, and the job was checked with it.
"""

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from importlib.util import find_spec
from pathlib import Path

_OLDEST = (1980, 1, 1, 0, 0, 0)  # zip's first day: the same files make the same bytes


@dataclass(frozen=True)
class Archive:
    """A zip file in memory."""

    content: bytes
    files: int

    @property
    def package(self) -> str:
        """The name to upload it under; the same content has the same name, and is sent once."""
        return f"_ray_pkg_{hashlib.sha256(self.content).hexdigest()[:40]}.zip"


def pack(files: Mapping[str, bytes]) -> Archive:
    """The zip of these files, by their paths in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(_entry(name), files[name], compresslevel=6)
    return Archive(buffer.getvalue(), len(files))


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _OLDEST)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def shipped_packages() -> list[str]:
    """The top-level packages of the distribution `footplate`."""
    entries = distribution("footplate").entry_points
    return sorted({entry.value.partition(":")[0].partition(".")[0] for entry in entries})


def package_files(folder: Path) -> list[Path]:
    """What a package of ours consists of: modules, recipes, `py.typed`. What else lies in a checkout stays here."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and (path.suffix in (".py", ".yaml") or path.name == "py.typed") and path.name[0] != "."
    )


def footplate_wheel() -> Archive:
    """The wheel of the Footplate that runs here.

    Its metadata names no dependencies, for the cluster has them. It is uploaded as what it is, a zip of packages, which
    Ray unpacks; for a `.whl` each node would run pip.
    """
    files: dict[str, bytes] = {}
    for package in shipped_packages():
        spec = find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or []:
            for path in package_files(Path(folder)):
                files[f"{package}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    files |= _metadata(distribution("footplate"), files)
    return pack(files)


def _metadata(installed: Distribution, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The wheel's `.dist-info`, as its specification wants it, with the entry points."""
    folder = f"footplate-{installed.version}.dist-info"
    written = {
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: footplate\nVersion: {installed.version}\n".encode(),
        f"{folder}/WHEEL": b"Wheel-Version: 1.0\nGenerator: footplate\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{folder}/entry_points.txt": (installed.read_text("entry_points.txt") or "").encode(),
    }
    rows = [f"{name},{_digest(content)},{len(content)}" for name, content in sorted({**files, **written}.items())]
    written[f"{folder}/RECORD"] = "\n".join([*rows, f"{folder}/RECORD,,", ""]).encode()
    return written


def _digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
