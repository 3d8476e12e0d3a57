"""Steps a second of PAAC, learning included, without evaluation and logging; a JSON line on stdout.

The counterpart of the programs in `peers/`: a process for each measurement.
"""

import argparse
import json
import resource
import time

from footplate.execution import run
from footplate.job import load_job

NEITHER_EVALUATION_NOR_RESETS = [
    "evaluate.every_updates=1000000",
    "reset_every_updates=1000000",
    "save.every_updates=1000000",
    "steps=1000000000",
]


def main() -> None:
    """Train for `warmup + updates` updates and say how fast the later ones were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", default=[], help="key=value ...")
    parser.add_argument("--warmup", type=int, required=True, help="updates that are not timed")
    parser.add_argument("--updates", type=int, required=True)
    options = parser.parse_intermixed_args()
    steps, began = 0.0, 0.0
    for step in run(load_job(options.recipe, [*NEITHER_EVALUATION_NOR_RESETS, *options.overrides])):
        steps += step.work["steps"]
        if step.update == options.warmup:
            steps, began = 0.0, time.perf_counter()
        if step.update == options.warmup + options.updates:
            seconds = time.perf_counter() - began
            break
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"rate": steps / seconds, "resident_mebibytes": memory / 1024}))


if __name__ == "__main__":
    main()
