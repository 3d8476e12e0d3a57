"""Corpora that can be downloaded: files at a pinned commit, each verified before it gets its name."""

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from footplate.errors import FootplateError

TIMEOUT_SECONDS = 60
_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Published:
    """A file as it was published."""

    path: str
    """Below the address of the corpus; the last part is the file's name here too."""
    size: int
    """In bytes."""
    sha256: str


@dataclass(frozen=True)
class Downloadable:
    """A corpus on the web."""

    url: str
    files: tuple[Published, ...]


def _multi30k() -> Downloadable:
    """Task 1 of Multi30k (Elliott et al. 2016): raw text in four languages, and the lower-cased, normalised, tokenised
    text of two. Sizes and digests are those of the repository's files at this commit."""
    commit = "a3d2e0d26b56f3846f66a952536ffed4e401d05a"
    return Downloadable(
        f"https://raw.githubusercontent.com/multi30k/dataset/{commit}/data/task1",
        tuple(Published(path, size, digest) for digest, size, path in _MULTI30K),
    )


_MULTI30K = (
    ("d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f", 568929, "raw/train.en.gz"),
    ("726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6", 637044, "raw/train.de.gz"),
    ("622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c", 604242, "raw/train.fr.gz"),
    ("a65adb8b32e3bc664f21ecba7a6e7f6950fd1f405e135f7c312faabdb6255077", 593827, "raw/train.cs.gz"),
    ("14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28", 21650, "raw/val.en.gz"),
    ("f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a", 24681, "raw/val.de.gz"),
    ("ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9", 23001, "raw/val.fr.gz"),
    ("b63226e05c4bd5dd6a42897d74b86a1b9d2c31498252c572b1ea7f7996927fcc", 22096, "raw/val.cs.gz"),
    ("611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9", 21077, "raw/test_2016_flickr.en.gz"),
    ("9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8", 22890, "raw/test_2016_flickr.de.gz"),
    ("6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90", 22310, "raw/test_2016_flickr.fr.gz"),
    ("200a4a74cc9560f051924abb9803be008d1908d77f747e9141aeb86dfd2797f1", 22572, "raw/test_2016_flickr.cs.gz"),
    ("08925f8e0572bcd5a006702fc5fe20e2d77c6917d4eebd576fc20de6693c2119", 1837696, "tok/train.lc.norm.tok.en"),
    ("cb5a23529b65ec2061f1dc446192a9c37382b63cc75f81a0be59d34894b3a505", 2150008, "tok/train.lc.norm.tok.de"),
    ("46573ce391ae227f1c72f873392436a20ef18e0a6d518098cfbd70b77c8572ec", 64608, "tok/val.lc.norm.tok.en"),
    ("97232bd273eceb7207f689527386a97e4be2616b18ada47576bdaf96c8ae1f00", 77273, "tok/val.lc.norm.tok.de"),
    ("5b7f32627cf99eced828311b955dae9800bb52bc8b91cf8b6526829e605b29d2", 63307, "tok/test_2016_flickr.lc.norm.tok.en"),
    ("c6a33d39d48f9f510de147651316cd9d918e09ad0219df734a2f16b6baccacc4", 71917, "tok/test_2016_flickr.lc.norm.tok.de"),
)


def _scan() -> Downloadable:
    """SCAN (Lake & Baroni 2018): the published files of the three splits that the corpus `scan` knows."""
    commit = "c4b756cbc010d75c912f16c42c8f15dc6b7e6c8f"
    return Downloadable(
        f"https://raw.githubusercontent.com/brendenlake/SCAN/{commit}",
        tuple(Published(path, size, digest) for digest, size, path in _SCAN),
    )


_SCAN = (
    (
        "941bb8a088c5f53ceff12fde902dc008933cf0c4203cc672c47b5f79d73262dd",
        3267938,
        "simple_split/tasks_train_simple.txt",
    ),
    ("1fe1c8f5a19d0dc40e41bab94278f45f66f3dc415a978bd29855a23440610fc6", 812450, "simple_split/tasks_test_simple.txt"),
    (
        "b034212dc7cf87ce62f3a067dd6ad49c4d5cd18d51d615d13825516bcb1ebbc2",
        2723418,
        "length_split/tasks_train_length.txt",
    ),
    ("0760752ed34a75116ae11dcc1ee17526b7500060da1366540730fa24894d7db3", 1356970, "length_split/tasks_test_length.txt"),
    (
        "e3c78485692e028eed4205e1b8b3fd0e785ef2c12d45b5b89204dadf5b239e23",
        2579619,
        "add_prim_split/tasks_train_addprim_jump.txt",
    ),
    (
        "8147ae2651422c701162e174d9d66158daa57858a26b30317ac61797118ac7a5",
        1531555,
        "add_prim_split/tasks_test_addprim_jump.txt",
    ),
)

CORPORA: Mapping[str, Downloadable] = {"multi30k": _multi30k(), "scan": _scan()}


def download(corpus: Downloadable, url: str, folder: Path, say: Callable[[str], None]) -> None:
    """Fetch what is not in the folder yet. A file appears there whole and verified, or not at all.

    Raises FootplateError where a file is there that is another one, cannot be fetched, or is not what was published.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in corpus.files:
            here = folder / Path(file.path).name
            if not here.exists():
                _fetch(file, f"{url.rstrip('/')}/{file.path}", here)
                say(f"{here}: {file.size:,} bytes")
            elif hashlib.sha256(here.read_bytes()).hexdigest() != file.sha256:
                raise FootplateError(
                    f"{here}: is there already and is another file than the published one; "
                    "remove it, or choose another folder with --to"
                )
            else:
                say(f"{here}: there already")
    except OSError as error:
        raise FootplateError(
            f"{folder}: cannot be written ({error.strerror}); make room, or choose another folder with --to"
        ) from error


def _fetch(file: Published, url: str, here: Path) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{here.name}-", dir=here.parent)
    beside = Path(name)
    try:
        digest, size = hashlib.sha256(), 0
        with os.fdopen(descriptor, "wb") as out:
            for block in _received(url, file.size):
                digest.update(block)
                size += len(block)
                out.write(block)
        if size != file.size:
            raise FootplateError(
                f"{url}: sent {size:,} bytes instead of {file.size:,}; try again, or give another address with --from"
            )
        if digest.hexdigest() != file.sha256:
            raise FootplateError(
                f"{url}: is not the published file (its SHA-256 is {digest.hexdigest()[:16]}..., "
                f"not {file.sha256[:16]}...); try again, or give another address with --from"
            )
        beside.chmod(0o644)  # mkstemp's files are for one user alone
        beside.rename(here)
    finally:
        beside.unlink(missing_ok=True)


def _received(url: str, size: int) -> Iterator[bytes]:
    """What the server sends, up to a byte more than there should be."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            left = size + 1
            while left and (block := response.read(min(_AT_ONCE, left))):
                left -= len(block)
                yield block
    except urllib.error.HTTPError as error:
        reason = f"the server answers {error.code} ({error.reason})"
    except urllib.error.URLError as error:
        reason = str(error.reason)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error) or type(error).__name__
    else:
        return
    raise FootplateError(f"{url}: cannot be fetched ({reason}); try again, or give another address with --from")
