"""Microseconds of cpprb's prioritised replay for a sample and the update of its priorities; a JSON line on stdout.

Runs in the environment that `peer.python_of` makes for it, never in ours. Stacks of frames are stored as they are.
"""

import json
import sys
import time

import numpy as np
from cpprb import PrioritizedReplayBuffer


def main():
    """Arguments: transitions, the shape of an observation as 4 or 4x84x84, rounds, and batch sizes."""
    transitions, shape = int(sys.argv[1]), tuple(int(axis) for axis in sys.argv[2].split("x"))
    rounds, batches = int(sys.argv[3]), [int(size) for size in sys.argv[4:]]
    dtype = np.float32 if len(shape) == 1 else np.uint8
    observation = {"shape": shape, "dtype": dtype}
    fields = {"obs": observation, "act": {"dtype": np.int64}, "rew": {}, "next_obs": observation, "done": {}}
    replay, random = PrioritizedReplayBuffer(transitions, fields, alpha=0.6), np.random.default_rng(1)
    size = 1000
    pictures = random.integers(0, 255, (size, *shape)).astype(dtype)
    for _ in range(transitions // size):
        replay.add(
            obs=pictures, act=np.zeros(size), rew=np.zeros(size), next_obs=pictures, done=np.zeros(size),
            priorities=random.random(size),
        )  # fmt: skip
    found = {}
    for batch in batches:
        times = []
        for _ in range(rounds):
            errors = random.random(batch)
            began = time.perf_counter()
            drawn = replay.sample(batch, beta=0.4)
            replay.update_priorities(drawn["indexes"], errors)
            times.append(time.perf_counter() - began)
        found[batch] = [1e6 * float(np.median(times)), 1e6 * float(np.min(times))]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
