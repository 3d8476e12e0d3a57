"""What holds for every agent whose environments start anew now and then: only there it is saved and evaluated.

All raise ValueError, with a text that names the key.
"""

from footplate.job import Job
from footplate.schedules import Plateau, Schedule


def require_saves_at_resets(job: Job, reset_every_updates: int) -> None:
    """Refuse checkpoints that are rarer than the job says."""
    every = job.save.every_updates
    if every is not None and every % reset_every_updates:
        raise ValueError(
            f"save.every_updates: {every} is no multiple of reset_every_updates: {reset_every_updates}, and only there "
            "a run can be saved; make it one"
        )


def require_evaluations_at_resets(every_updates: int, reset_every_updates: int) -> None:
    """Refuse evaluations of a policy that is not saved."""
    if every_updates % reset_every_updates:
        raise ValueError(
            f"evaluate.every_updates: {every_updates} is no multiple of reset_every_updates: "
            f"{reset_every_updates}, and only there a policy can be saved; make it one"
        )


def require_that_higher_is_better(schedule: Schedule) -> None:
    """Refuse a plateau that waits for the return to fall."""
    if isinstance(schedule, Plateau) and schedule.better == "lower":
        raise ValueError("schedule.better: lower does not suit eval/return, which a plateau watches here; leave it out")
