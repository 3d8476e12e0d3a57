"""The marker: how the driver's machine and those of the workers find out that they see the same folder.

Paths that look alike on several machines may be different disks. A worker that wrote there would train into nowhere.
"""

import socket
from pathlib import Path

MARKER = "ray/marker"
SHARED = "give --runs a folder on a disk that all machines of the cluster share"


def write_marker(folder: Path, token: str) -> None:
    """Leave a token in the folder of a run or a sweep, for the workers to find."""
    marker = folder / MARKER
    marker.parent.mkdir(exist_ok=True)
    marker.write_text(f"{token} {socket.gethostname()}")


def problem_with(folder: Path, token: str, what: str = "run folder", advice: str = f"{SHARED}, or a URL") -> str | None:
    """Why the folder that is seen here cannot be the driver's, in a line; None if it is."""
    try:
        found = (folder / MARKER).read_text().split()[0]
    except (OSError, IndexError):
        found = ""
    if found == token:
        return None
    return f"{folder}: on {socket.gethostname()} this is not the {what} that the driver sees; {advice}"
