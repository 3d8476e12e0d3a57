"""From `footplate submit` to the first update: what each second goes to, beside a bare Ray job of the same shape.

The bare job goes the way that Ray's users go: `ray job submit` sends a script whose driver starts one TorchTrainer,
whose function imports torch and makes one update of a linear layer. What that takes, to the same event, is Ray's own.
The two take turns. The first round of a head is cold: the wheel is uploaded and unpacked.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ray_head import ray_head
from report import machine, replace_block

from footplate_cluster.dashboard import Dashboard

ROOT = Path(__file__).parents[1]
RECIPE = ["copy-transformer", "track.every_updates=1", "threads=1"]
BARE = """
import sys, time
from pathlib import Path
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
ray.init(address="auto", log_to_driver=False)
folder = sys.argv[1]
def train():
    import torch
    torch.set_num_threads(1)
    layer = torch.nn.Linear(8, 8)
    layer(torch.ones(1, 8)).sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()
    Path(folder, "updated").write_text(str(time.time()))
TorchTrainer(train, scaling_config=ScalingConfig(num_workers=1), run_config=RunConfig(storage_path=folder)).fit()
"""
SUBMIT = """
import json, sys, time
from pathlib import Path
stamps = {}
import footplate.cli  # which the command imports
from footplate.job import load_job
job = load_job(sys.argv[2], sys.argv[3:])
stamps["recipe"] = time.time()
from footplate_cluster.dashboard import Dashboard
from footplate_cluster.submissions import Submissions
from footplate_cluster.wheel import footplate_wheel
cluster = Submissions(Dashboard(sys.argv[1]))
stamps["cluster"] = time.time()
cluster.submit(job, cluster.free_name("run"))
stamps["sent"] = time.time()
footplate_wheel()
stamps["wheel"] = time.time()
print(json.dumps(stamps))
"""
WHEEL = "of this, the wheel"
WAIT_SECONDS = 300.0


def bare_seconds(address: str, folder: Path) -> float:
    """From typing `ray job submit` to the first update of a bare job's one worker."""
    program = folder / "bare.py"
    program.write_text(BARE)
    updated = folder / "updated"
    updated.unlink(missing_ok=True)
    ray = Path(sys.executable).with_name("ray")
    began = time.time()
    subprocess.run(
        [ray, "job", "submit", "--address", address, "--no-wait", "--", "python", program, folder],
        env=os.environ | {"RAY_AUTH_MODE": "token"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    _wait_for(updated)
    seconds = float(updated.read_text()) - began
    _wait_for_the_end(address)
    return seconds


def submission_seconds(address: str, folder: Path) -> dict[str, float]:
    """The stages of a submission, each by its name, in their order."""
    known = set(folder.glob("runs/*"))
    running = drivers()
    began = time.time()
    child = subprocess.run(
        [sys.executable, "-c", SUBMIT, address, *RECIPE], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    )
    stamps = json.loads(child.stdout.splitlines()[-1])
    wheel = stamps.pop("wheel") - stamps["sent"]
    stamps["driver"] = _driver_started(running)
    while not (new := set(folder.glob("runs/*/submission.json"))) or all(path.parent in known for path in new):
        time.sleep(0.01)
    run = next(path.parent for path in new if path.parent not in known)
    stamps["launch"] = (run / "submission.json").stat().st_mtime
    stamps["worker"] = _wait_for(run / "status.json")
    rows = run / "metrics.jsonl"
    _wait_for(rows)
    stamps["update"] = rows.stat().st_mtime
    (run / "stop").write_text("measured")
    _wait_for_the_end(address)
    names = {
        "recipe": "`footplate submit`: Python, the recipe and its checks",
        "cluster": "ask the cluster",
        "sent": "build the wheel, upload what is new, send",
        "driver": "Ray: unpack, start the driver's process",
        "launch": "driver: Python, the recipe, the run folder",
        "worker": "Ray: connect, start the Train worker; the recipe there",
        "update": "corpus, model, first update",
    }
    ends = [began, *(stamps[name] for name in names)]
    stages = {name: end - start for name, start, end in zip(names.values(), ends, ends[1:], strict=False)}
    return stages | {WHEEL: wheel}


def _driver_started(known: set[str]) -> float:
    """When a driver was first seen that was not among the known ones."""
    deadline = time.time() + WAIT_SECONDS
    while not drivers() - known:
        if time.time() > deadline:
            raise TimeoutError("the driver did not start")
        time.sleep(0.02)
    return time.time()


def drivers() -> set[str]:
    """The processes that run a submission."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"footplate.job.yaml" in words and b"-m" in words:
                found.add(path.parent.name)
    return found


def _wait_for(path: Path) -> float:
    """When the file was first seen to hold something. Raises TimeoutError."""
    deadline = time.time() + WAIT_SECONDS
    while not (path.is_file() and path.stat().st_size):
        if time.time() > deadline:
            raise TimeoutError(f"{path} did not appear")
        time.sleep(0.005)
    return time.time()


def _wait_for_the_end(address: str) -> None:
    while not all(job.has_ended for job in Dashboard(address).jobs()):
        time.sleep(0.5)


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="after the cold one")
    rounds = parser.parse_args().rounds
    with ray_head() as head, tempfile.TemporaryDirectory() as place:
        address = head.address
        folder = Path(place)
        bare_seconds(address, folder)  # reads Ray and torch from the disk
        found, bare = [submission_seconds(address, folder)], []
        for _ in range(rounds):
            bare.append(bare_seconds(address, folder))
            found.append(submission_seconds(address, folder))
    lines = ["| seconds | first | then, median |", "|---|---|---|"]
    wheels = [one.pop(WHEEL) for one in found]
    for name in found[0]:
        lines.append(f"| {name} | {found[0][name]:.1f} | {statistics.median(one[name] for one in found[1:]):.1f} |")
    sums = [sum(one.values()) for one in found]
    lines.append(f"| all | {sums[0]:.1f} | {statistics.median(sums[1:]):.1f} |")
    ours = [whole - bare_one for whole, bare_one in zip(sums[1:], bare, strict=True)]
    lines.append(f"| of which building the wheel | {wheels[0]:.1f} | {statistics.median(wheels[1:]):.1f} |")
    lines.append(f"| a bare Ray job, from `ray job submit` to its first update | | {statistics.median(bare):.1f} |")
    lines.append(
        f"| ours on top of it (goal: 2) | | {statistics.median(ours):.1f} ({min(ours):.1f} to {max(ours):.1f}) |"
    )
    print("\n".join(lines))
    load = f"{os.getloadavg()[0]:.0f} processes wanting its cores meanwhile"
    command = f"`python benchmarks/submission.py --rounds {rounds}`"
    replace_block(ROOT / "docs" / "cluster.md", "submission", [*lines, "", f"{command}, {machine()}, {load}."])


if __name__ == "__main__":
    main()
