"""What agents have against the workers of a cluster: some have one learner, others share environments evenly.

All raise ValueError, with a text that names the key.
"""

from math import lcm

from footplate.job import Job


def require_one_learner(job: Job, has: str, own: str | None = None) -> None:
    """Refuse several ranks for an agent that `has` something else, of which the key `own` may say how many."""
    if (most := job.resources.most_workers) > 1:
        instead = "" if own is None else f", and {own}={most}"
        raise ValueError(f"resources.workers: {job.resources.workers} are ranks, and {has}; use 1{instead}")


def require_even_shares(job: Job, environments: int, groups: int, accumulate: int = 1) -> None:
    """Refuse numbers of workers that can't share the environments, each cutting its own into microbatches and groups.

    A run on one worker is left to the config's own checks.
    """
    resources = job.resources
    if (most := resources.most_workers) == 1:
        return
    numbers = range(resources.fewest_workers, most + 1)
    uneven = [number for number in numbers if environments % (number * accumulate)]
    if uneven:
        named = " or ".join(str(number) for number in uneven[:4]) + (" or more" if len(uneven) > 4 else "")
        pieces = f", in {accumulate} microbatches each" if accumulate > 1 else ""
        raise ValueError(
            f"environments: {environments} can't be shared evenly by {named} workers{pieces}, which "
            f"resources.workers: {resources.workers} allows; use a multiple of {lcm(*numbers) * accumulate}, or other "
            "workers"
        )
    if groups > environments // most:
        raise ValueError(
            f"groups: {environments // most} environments of each of {most} workers, which resources.workers: "
            f"{resources.workers} allows, can't be cut into {groups} groups; use at most {environments // most}"
        )
