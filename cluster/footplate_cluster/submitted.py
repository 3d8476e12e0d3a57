"""`submission.json` in a run folder: which submission to which cluster the run is. It holds no secret."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from footplate.folder import RunFolder

ENVIRONMENT = "FOOTPLATE_SUBMISSION"
"""How the job's driver hears of it."""
FILE = "submission.json"


@dataclass(frozen=True)
class Submitted:
    """The dashboard's address as the user gave it, and the job's id there."""

    address: str
    submission_id: str

    def to_json(self) -> str:
        """As text; `read_submitted` reads it."""
        return json.dumps(asdict(self))


def record_submission(folder: RunFolder) -> None:
    """Where this process is the driver of a submission, say so in the run folder."""
    if text := os.environ.get(ENVIRONMENT):
        beside = folder.path / f".{FILE}-{os.getpid()}"
        beside.write_text(text + "\n")
        beside.replace(folder.path / FILE)


def read_submitted(folder: Path) -> Submitted | None:
    """What the folder says; None where the run was never submitted, or the folder is not seen from here."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads((folder / FILE).read_text())
        return Submitted(str(found["address"]), str(found["submission_id"]))
    return None
