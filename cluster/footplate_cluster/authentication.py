"""Ray's token: where it is found, and that nobody else on the machine reads it.

Ray (2.60) looks in RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH, and in ~/.ray/auth_token, in this order. A cluster
that `ray.init` starts asks for a token by default, and makes one where there is none, in a file that all may read.
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from footplate.errors import FootplateError


@dataclass(frozen=True)
class Token:
    """A token and where it was found; only the place is ever shown."""

    source: str
    secret: str = field(repr=False)

    def is_in(self, content: bytes) -> bool:
        """Whether somebody can read it there; not where it is a part of a longer word, as a short one may be."""
        return re.search(rb"(?<![\w-])" + re.escape(self.secret.encode()) + rb"(?![\w-])", content) is not None


def find_token() -> Token | None:
    """The token that Ray itself would use. Raises FootplateError for what cannot be one, or no file.

    ~/.ray/auth_token, which Ray makes, is closed to others; a file that RAY_AUTH_TOKEN_PATH names may be a group's.
    """
    if secret := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return _checked("RAY_AUTH_TOKEN", secret)
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        try:
            secret = Path(path).expanduser().read_text(errors="replace").strip()
        except OSError as error:
            raise FootplateError(
                f"RAY_AUTH_TOKEN_PATH={path}: cannot be read ({error.strerror}); name the file that holds the token"
            ) from error
        return _checked(path, secret)
    default = _default_path()
    with suppress(OSError):
        _close_to_others(default)
        if secret := default.read_text(errors="replace").strip():
            return _checked(str(default), secret)
    return None


def _checked(source: str, secret: str) -> Token:
    """Python would show a token that no header can hold, in a traceback."""
    if any(not "!" <= letter <= "~" for letter in secret):
        raise FootplateError(
            f"{source}: holds no token: there is white space or a foreign letter in it; "
            "get the one that the cluster was started with"
        )
    return Token(source, secret)


@contextmanager
def token_of_this_machine() -> Iterator[None]:
    """While a cluster is started here, there is a token that only this user can read.

    Without one, ~/.ray/auth_token is made; where that can't be written, the token lives in this process's environment.
    """
    if os.environ.get("RAY_AUTH_MODE", "token") != "token" or find_token() is not None:
        yield
        return
    secret = secrets.token_hex(32)
    try:
        _write(_default_path(), secret)
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secret
    try:
        yield
    finally:
        if os.environ.get("RAY_AUTH_TOKEN") == secret:
            del os.environ["RAY_AUTH_TOKEN"]


def _default_path() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _write(path: Path, secret: str) -> None:
    """Write the file whole, closed to others from its first byte; one that came meanwhile stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secret)
        with suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink()


def _close_to_others(path: Path) -> None:
    """Ray writes the file with mode 0644."""
    if path.stat().st_mode & 0o077:
        with suppress(PermissionError):  # another's, which its owner must close
            path.chmod(0o600)
