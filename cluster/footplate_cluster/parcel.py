"""What a submission sends besides Footplate: the job, the user's own modules, what `--send` names; never a secret."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from footplate.errors import FootplateError
from footplate.job import Job
from footplate_cluster.authentication import find_token
from footplate_cluster.own_modules import as_sent, hidden_module, own_modules
from footplate_cluster.wheel import Archive, pack

JOB_FILE = "footplate.job.yaml"
LARGEST_BYTES = 100 * 1024 * 1024
"""Ray keeps uploads in the head's memory; data belongs where every node sees it."""
IGNORE_FILES = (".gitignore", ".rayignore")
SECRET_NAMES = re.compile(
    r"""(^|/)(
        \.env(\..*)? | .*\.(env|pem|key|p12|pfx|kdbx) | id_(rsa|dsa|ecdsa|ed25519).* | auth_token | \.ray-token-.*
        | [._]netrc | \.npmrc | \.pypirc | \.git-credentials | credentials(\.json)? | secrets\.(json|ya?ml|toml)
        | \.(aws|ssh|kube|gnupg)/.*
    )$""",
    re.VERBOSE,
)
SECRET_CONTENT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bA[KS]IA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b|\bgithub_pat_\w{60,}"
    rb"|\bhf_[A-Za-z0-9]{34}\b|\bxox[abprs]-[A-Za-z0-9-]{20,}|WANDB_API_KEY[\"']?\s*[=:]\s*[\"']?[0-9a-zA-Z_-]{20,}"
    rb"|(?i:AWS_SECRET_ACCESS_KEY)[\"']?\s*[=:]\s*[\"']?[0-9a-zA-Z/+]{40}(?![0-9a-zA-Z/+])"
    rb"|(?<![\w-])sk-(?:[0-9A-Za-z]{40,}(?![\w-])|(?:proj|svcacct|admin|ant)-[\w-]{40,})"
)


@dataclass(frozen=True)
class Parcel:
    """The files of an upload by their paths on the cluster, and the archive that holds them."""

    job: Job
    files: Mapping[str, bytes]
    archive: Archive

    def lines(self) -> list[str]:
        """Each file with its size."""
        return [f"{name} ({size(len(content))})" for name, content in sorted(self.files.items())]


def make_parcel(job: Job, send: Sequence[Path] = ()) -> Parcel:
    """All that the job needs from here; `send` names further files and folders below the working directory.

    Raises FootplateError for a secret (Ray's token, say), a name that would hide a module on the cluster, a file that
    is ignored and needed, one that lies elsewhere, and for more than 100 MiB.
    """
    here = Path.cwd()
    paths: dict[str, Path] = {}
    for name, path in own_modules(job).items():
        paths |= _files(path, f"{name}.py" if path.is_file() else name, Ignored(path.parent))
    for path in send:
        inside = _below(path, here)
        paths |= _files(here / inside, inside.as_posix(), Ignored(here))
    job = as_sent(job)
    _refuse_hiding(paths)
    total = sum(path.stat().st_size for path in paths.values())
    if total > LARGEST_BYTES:
        raise FootplateError(
            f"--send: {size(total)} are too much for the cluster's head; put data where every node sees it"
        )
    files: dict[str, bytes] = {}
    for name, path in sorted(paths.items()):
        _refuse_secret_name(name, path)
        files[name] = _read(path)
    files[JOB_FILE] = job.to_yaml().encode()
    token = None
    with suppress(FootplateError):  # one that cannot be read is in none of these files
        token = find_token()
    for name, content in files.items():
        # A short token may be a word of the job, which a recipe has no place for tokens in.
        holds_token = token is not None and name != JOB_FILE and token.is_in(content)
        if SECRET_CONTENT.search(content) or holds_token:
            raise FootplateError(
                f"{paths.get(name, name)}: holds a key, which whoever reaches the cluster could read; "
                "give it to the cluster by a file or its own environment"
            )
    return Parcel(job, files, pack(files))


def size(count: int) -> str:
    """A number of bytes as people read it.

    >>> size(812), size(368_483), size(3_000_000)
    ('812 B', '360 KiB', '2.9 MiB')
    """
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.0f} KiB" if count < 1024**2 else f"{count / 1024**2:.1f} MiB"


class Ignored:
    """What `.gitignore` and `.rayignore` leave out: of this folder, of those above it in its repository, and below."""

    def __init__(self, folder: Path) -> None:
        self._specs: dict[Path, GitIgnoreSpec] = {}
        self._top = next((above for above in (folder, *folder.parents) if (above / ".git").exists()), folder)

    def __call__(self, path: Path) -> bool:
        """Whether a file is left out."""
        folders = [folder for folder in path.parents if folder.is_relative_to(self._top)]
        return any(self._spec(folder).match_file(path.relative_to(folder)) for folder in folders)

    def _spec(self, folder: Path) -> GitIgnoreSpec:
        if folder not in self._specs:
            lines = [
                line
                for name in IGNORE_FILES
                if (folder / name).is_file()
                for line in (folder / name).read_text("utf-8", errors="replace").splitlines()
            ]
            self._specs[folder] = GitIgnoreSpec.from_lines(lines)
        return self._specs[folder]


def _files(path: Path, name: str, ignored: Ignored) -> dict[str, Path]:
    """The files of a folder, or the one file, by their names on the cluster; links that lead out are left behind."""
    if path.is_file():
        if ignored(path):
            raise FootplateError(
                f"{path}: is needed, and {' or '.join(IGNORE_FILES)} leaves it out; take it out of there"
            )
        return {name: path}
    inside = [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    return {
        f"{name}/{file.relative_to(path).as_posix()}".removeprefix("./"): file
        for file in inside
        if not ignored(file) and ".git" not in file.relative_to(path).parts and file.resolve().is_relative_to(path)
    }


def _below(path: Path, here: Path) -> Path:
    where = (here / path).resolve()
    if not where.exists():
        raise FootplateError(f"--send {path}: there is no such file or folder; name one below the working directory")
    if not where.is_relative_to(here):
        raise FootplateError(f"--send {path}: lies outside of the working directory; start from a folder above it")
    return where.relative_to(here)


def _refuse_hiding(paths: Mapping[str, Path]) -> None:
    """Uploads are found before all else: a `platform/__init__.py` among them stops every worker's start."""
    for name, path in sorted(paths.items()):
        top, _, rest = name.partition("/")
        if rest == "__init__.py" or (not rest and name.endswith(".py")):
            module = top.removesuffix(".py")
            if (hidden := hidden_module(module)) is not None:
                raise FootplateError(f"{path}: would hide {hidden} module {module!r} from every worker; rename it")


def _refuse_secret_name(name: str, path: Path) -> None:
    if SECRET_NAMES.search(name):
        raise FootplateError(
            f"{path}: looks like a secret, which whoever reaches the cluster could read; "
            "name it in .rayignore, or move it elsewhere"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FootplateError(f"{path}: cannot be read ({error.strerror}); make it readable, or ignore it") from error
