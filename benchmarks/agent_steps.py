"""Environment steps a second of an agent, learning included, without evaluation and logging; a JSON line on stdout.

The counterpart of the programs in `peers/`: a process for each measurement.
"""

import argparse
import json
import resource
import time
from contextlib import closing

from footplate.execution import run
from footplate.job import load_job

# A multiple of every recipe's updates a round, and far beyond what is measured.
NEVER = 1_280_000
NEITHER_EVALUATION_NOR_RESETS = [
    f"evaluate.every_updates={NEVER}",
    f"reset_every_updates={NEVER}",
    f"save.every_updates={NEVER}",
    "steps=1000000000",
]


def main() -> None:
    """Train for so many steps, and say how fast those after the first `--warmup` were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", default=[], help="key=value ...")
    parser.add_argument("--warmup", type=int, required=True, help="steps that are not timed")
    parser.add_argument("--steps", type=int, required=True, help="steps that are timed, or a rollout more")
    options = parser.parse_intermixed_args()
    made, began, seconds = 0.0, 0.0, 0.0
    with closing(run(load_job(options.recipe, [*NEITHER_EVALUATION_NOR_RESETS, *options.overrides]))) as training:
        for step in training:
            made += step.work.get("steps", 0.0)
            if not began and made >= options.warmup:
                made, began = 0.0, time.perf_counter()
            elif began and made >= options.steps:
                seconds = time.perf_counter() - began
                break
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"rate": made / seconds, "resident_mebibytes": memory / 1024}))


if __name__ == "__main__":
    main()
