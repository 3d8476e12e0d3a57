"""What every page of results says of its machine, and where in the page the results go."""

import datetime
import os
import platform
from pathlib import Path

import torch


def machine() -> str:
    """The date, the processor, the cores and the versions, in a line."""
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    today = datetime.datetime.now(tz=datetime.UTC).date()
    return (
        f"{today}, {processor}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )


def replace_block(page: Path, name: str, lines: list[str]) -> None:
    """Put lines between the page's `<!-- NAME -->` and `<!-- /NAME -->`. Raises ValueError where they are missing."""
    text = page.read_text()
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if begin not in text or end not in text:
        raise ValueError(f"{page}: has no block {begin.strip()} ... {end}; add both lines where the results belong")
    before, rest = text.split(begin, 1)
    page.write_text(before + begin + "\n".join(lines) + "\n" + end + rest.split(end, 1)[1])
