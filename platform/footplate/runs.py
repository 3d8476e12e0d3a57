"""What the run folders say: the list of runs, and what to do next with one."""

from pathlib import Path

from footplate.errors import ConfigError, FootplateError
from footplate.folder import SWEEP_FILE, RunFolder, is_seen, is_url, relative


def list_runs(runs: str | Path) -> list[tuple[str, str, str, str, str]]:
    """Name, task, state, updates made and best score of every run under a folder, the newest last; so of sweeps."""
    if is_url(runs):
        from footplate.remote import list_copies

        return [_row(folder) for folder in list_copies(str(runs))]
    try:
        folders = list(Path(runs).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise FootplateError(
            f"{runs}: cannot be read ({error.strerror}); make it readable, or choose another folder with --runs"
        ) from error
    files = [folder / name for folder in folders for name in ("job.yaml", SWEEP_FILE) if is_seen(folder / name)]
    return [
        _sweep_row(file.parent) if file.name == SWEEP_FILE else _row(RunFolder(file.parent))
        for file in sorted(files, key=_written)
    ]


def _written(file: Path) -> float:
    """When a file was written; long ago where it has just been removed."""
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _sweep_row(path: Path) -> tuple[str, str, str, str, str]:
    from footplate.sweeps.folder import SweepFolder

    try:
        sweep = SweepFolder(path)
        ranked, metric = sweep.ranked(), sweep.best.metric
    except FootplateError:
        return (path.name, "sweep of ?", "?", "", "")
    over = sum(standing.is_over for standing in ranked)
    state = "finished" if over == len(ranked) else "running" if RunFolder(path).is_locked() else "stopped"
    best = ranked[0].score
    return (
        sweep.name,
        f"sweep of {Path(sweep.sweep.recipe).stem}",
        state,
        f"{over}/{len(ranked)} trials",
        "" if best is None else f"{metric} {best:.4g}",
    )


def _row(folder: RunFolder) -> tuple[str, str, str, str, str]:
    from footplate.document import read_document

    status = folder.read_status()
    try:
        task = str(read_document(folder.job).data.get("task", "?"))
    except ConfigError:
        task = "?"
    best = status.get("best")
    updates = f"{status['update']}/{status['updates']}" if "updates" in status else str(status["update"])
    return (
        folder.name,
        task,
        str(status["state"]),
        updates,
        "" if best is None else f"{best['metric']} {best['value']:.4g}",
    )


def closing_lines(folder: RunFolder) -> list[str]:
    """What became of a run, where it lies, and the commands that go on from here."""
    from footplate.job import read_job
    from footplate.tasks import load_task

    status = folder.read_status()
    best = status.get("best")
    reached = "" if best is None else f", best {best['metric']} {best['value']:.4g}"
    run = folder.argument
    lines = [
        f"{folder.name}: {status['state']} after {status['update']} update{'s' * (status['update'] != 1)}{reached}",
        f"  run folder  {folder.url or relative(folder.path)}",
    ]
    if status["state"] != "finished":
        return [*lines, f"  go on       footplate resume {run}"]
    following = getattr(load_task(read_job(folder.job).task), "NEXT_COMMANDS", ())
    return [
        *lines,
        f"  curves      footplate show {run}",
        *(f"  next        {command.format(run=run)}" for command in following),
    ]
