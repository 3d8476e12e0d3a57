"""Starting a sweep and going on with one; what runs the trials is an installed package's."""

import shutil
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, cast

from footplate.errors import FootplateError, TrainingError
from footplate.folder import RunFolder, create_run, is_url, refuse_password
from footplate.sweeps.folder import SweepFolder, write_sweep
from footplate.sweeps.plan import Plan
from footplate.sweeps.results import require_success, show_sweep, summary

GROUP = "footplate.sweepers"


class Sweeper(Protocol):
    """Run every trial that is not over yet, from its newest checkpoint, until all are or the sweep is stopped."""

    def __call__(self, sweep: SweepFolder) -> None: ...


def start_sweep(plan: Plan, name: str | None, runs: str | Path) -> None:
    """Make the sweep's folder and run it. Raises FootplateError; where no trial has started by then, nothing stays."""
    refuse_password(runs)
    if is_url(runs):
        raise FootplateError(
            f"--runs {runs}: a sweep is kept in a folder on a disk that every node sees, not at a URL; use a path"
        )
    place = create_run(runs, name, plan.name)
    try:
        run_trials = find_sweeper()
        go_on(write_sweep(place.path, plan.sweep, plan.trials, plan.jobs), run_trials)
    except FootplateError as error:
        states = {RunFolder(place.path / trial.name).read_status()["state"] for trial in plan.trials}
        if not isinstance(error, TrainingError) and states <= {"waiting", "unknown"}:
            shutil.rmtree(place.path)
        raise


def resume_sweep(sweep: SweepFolder) -> None:
    """Run the trials that are not over: those that were stopped, killed or never started, and those that failed."""
    if all(standing.is_over for standing in sweep.standings()):
        print(f"{sweep.name}: all {len(sweep.trials)} trials are over, nothing to do")
        return
    go_on(sweep, find_sweeper())


def go_on(sweep: SweepFolder, run_trials: Sweeper) -> None:
    """Run what is left, then show what came of it. Raises TrainingError where no trial came to anything."""
    run_trials(sweep)
    require_success(sweep)
    ranked = sweep.ranked()
    if ranked[0].score is None:
        print(summary(sweep, ranked))
    else:
        show_sweep(sweep)
    if not all(standing.is_over for standing in ranked):
        print(f"  go on       footplate resume {sweep.argument}")
    else:
        print(f"  next        footplate show {ranked[0].folder.argument}")


def find_sweeper() -> Sweeper:
    """What runs the trials. Raises FootplateError where nothing does."""
    for entry in entry_points(group=GROUP):
        try:
            return cast(Sweeper, entry.load().run_sweep)
        except ModuleNotFoundError as error:
            if error.name != entry.name:
                raise
            raise FootplateError(f"sweep: needs {entry.name}; pip install 'footplate[{entry.name}]'") from error
    raise FootplateError("sweep: no installed package runs trials; pip install 'footplate[ray]'")
