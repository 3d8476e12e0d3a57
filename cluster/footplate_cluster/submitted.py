"""`submission.json` in a run folder: which submission to which cluster the run is. It holds no secret."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass

from footplate.folder import RunFolder

ENVIRONMENT = "FOOTPLATE_SUBMISSION"
"""How the job's driver hears of it."""
FILE = "submission.json"


@dataclass(frozen=True)
class Submitted:
    """The dashboard's address as the user gave it, the job's id there, and the paths that `--send` named."""

    address: str
    submission_id: str
    send: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As text; `read_submitted` reads it."""
        return json.dumps(asdict(self))


def record_submission(folder: RunFolder) -> None:
    """Where this process is the driver of a submission, say so in the run folder, or at its URL.

    Raises StorageError where that URL cannot be written.
    """
    if not (text := os.environ.get(ENVIRONMENT)):
        return
    if folder.url is not None:
        from footplate.storage import Storage

        Storage(folder.url).write(FILE, text.encode())
    else:
        beside = folder.path / f".{FILE}-{os.getpid()}"
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(folder.path / FILE)


def read_submitted(folder: RunFolder) -> Submitted | None:
    """What the folder says; None where the run was never submitted, or the folder is not seen from here.

    Raises StorageError where the URL of the run does not answer.
    """
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(_content(folder))
        return Submitted(str(found["address"]), str(found["submission_id"]), tuple(map(str, found.get("send", ()))))
    return None


def _content(folder: RunFolder) -> bytes:
    if folder.url is None:
        return (folder.path / FILE).read_bytes()
    from footplate.storage import Storage

    return Storage(folder.url).read(FILE) or b""
