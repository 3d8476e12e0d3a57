"""The commands of the platform: train, resume, evaluate, recipes, runs, show, schema."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from footplate.errors import FootplateError, TrainingError

if TYPE_CHECKING:
    from footplate.folder import RunFolder

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="changes to the recipe's keys")]
Runs = Annotated[str, typer.Option("--runs", help="the folder that holds the runs: a path or a URL")]
Run = Annotated[str, typer.Argument(help="a run's name, or the path or URL of its folder")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; what the recipe says if not given")]
WhichCheckpoint = Annotated[str, typer.Option("--checkpoint", help="best, last, or the number of an update")]
DEFAULT_RUNS = "runs"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (train, resume, evaluate, recipes, runs, show, schema):
        app.command()(command)


def train(
    recipe: Annotated[str, typer.Argument(help="a shipped recipe's name (see `footplate recipes`), or a YAML file")],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="the run's name; the recipe's, numbered, if none is given")] = None,
    runs: Runs = DEFAULT_RUNS,
    device: Device = None,
    on: Annotated[str | None, typer.Option(help="here, or ray")] = None,
    address: Annotated[str | None, typer.Option(help="the Ray cluster: local, auto, or host:6379")] = None,
    workers: Annotated[str | None, typer.Option(help="how many share each update's batch: 2, or 1:4")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="wait for a cluster that is too small to grow")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="a few updates, deterministic, with anomaly detection")
    ] = False,
) -> None:
    """Train from a recipe: footplate train copy-transformer seed=2"""
    from footplate.folder import create_run
    from footplate.job import load_job
    from footplate.launch import find_launcher
    from footplate.tracking import require_trackers

    flags = {"device": device, "on": on, "address": address, "resources.workers": workers}
    flags["resources.wait"] = "true" if wait else None
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    job = load_job(recipe, [*(overrides or []), *given], debug=debug).settled()
    require_trackers(job)
    launch = find_launcher(job)
    folder = create_run(runs, name, Path(recipe).stem)
    try:
        folder.write_job(job.to_yaml())
        launch(job, folder)
    except FootplateError as error:
        if not isinstance(error, TrainingError) and not _has_begun(folder):
            folder.remove()  # the name is free again once the mistake is mended
        raise
    _say_what_next(folder.refreshed())


def _has_begun(folder: "RunFolder") -> bool:
    """Whether a run has anything to lose; a storage that does not answer may have."""
    try:
        folder = folder.refreshed()
    except FootplateError:
        return True
    rows = folder.metrics.exists() and folder.metrics.stat().st_size > 0
    return rows or folder.read_status()["update"] > 0 or any(folder.checkpoints.glob("[0-9]*"))


def resume(
    run: Run,
    runs: Runs = DEFAULT_RUNS,
    address: Annotated[
        str | None, typer.Option(help="go on on this Ray cluster: local, auto, host:6379; http://head:8265 submits it")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="when submitted: show it until it ends")] = False,
    allow_open: Annotated[
        bool, typer.Option("--allow-open", help="when submitted: also to a cluster that asks for no token")
    ] = False,
) -> None:
    """Go on with a run or a sweep that was stopped or killed, from its newest checkpoints, as if nothing had been."""
    from footplate.folder import open_run
    from footplate.job import load_job, read_job
    from footplate.launch import find_submitter, launch
    from footplate.sweeps.folder import find_sweep_folder
    from footplate.sweeps.launch import resume_sweep

    if address is not None and address.startswith(("http://", "https://")):
        find_submitter()(run, str(runs), address, follow=follow, allow_open=allow_open)
        return
    if follow or allow_open:
        raise FootplateError(
            "resume: --follow and --allow-open are for a run that is submitted; add --address http://..."
        )
    if (sweep := find_sweep_folder(run, runs)) is not None:
        if address is not None:
            raise FootplateError("resume: --address is for a run; a sweep goes on where its file says; leave it out")
        resume_sweep(sweep)
        return
    folder = open_run(run, runs)
    if folder.read_status()["state"] == "finished":
        print(f"{folder.name}: finished already, nothing to do")
        return
    launch(
        read_job(folder.job) if address is None else load_job(folder.job, ["on=ray", f"address={address}"]).settled(),
        folder,
    )
    _say_what_next(folder.refreshed())


def evaluate(
    run: Run,
    overrides: Overrides = None,
    checkpoint: WhichCheckpoint = "best",
    runs: Runs = DEFAULT_RUNS,
    device: Device = None,
) -> None:
    """Evaluate a run's checkpoint, with any of its keys changed: footplate evaluate RUN evaluate.split=test"""
    from footplate.evaluation import evaluate_run
    from footplate.folder import open_run

    flags = [f"device={device}"] if device is not None else []
    evaluate_run(open_run(run, runs), [*(overrides or []), *flags], checkpoint)


def recipes() -> None:
    """List the recipes that ship with the installed packages, and the sweeps."""
    from footplate.document import read_document
    from footplate.recipes import list_recipes, list_sweeps
    from footplate.tables import print_table

    print_table(("recipe", "task", "about"), [(recipe.name, recipe.task, recipe.about) for recipe in list_recipes()])
    sweeps = [(name, read_document(path).data) for name, path in list_sweeps().items()]
    print_table(
        ("sweep", "recipe", "about"), [(name, str(data["recipe"]), str(data["about"])) for name, data in sweeps]
    )


def runs(runs: Runs = DEFAULT_RUNS) -> None:
    """List the runs and what became of them."""
    from footplate.runs import list_runs
    from footplate.tables import print_table

    rows = list_runs(runs)
    if not rows:
        print(f"no runs under {runs}; start one with `footplate train copy-transformer`")
        return
    print_table(("run", "task", "state", "update", "best"), rows)


def show(
    run: Run,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the PNG; in the run folder if none")] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Print a run's summary and draw its curves; of a sweep, the table and how settings and score go together."""
    from footplate.folder import open_run
    from footplate.show import show as show_run
    from footplate.sweeps.folder import find_sweep_folder
    from footplate.sweeps.results import show_sweep

    if (sweep := find_sweep_folder(run, runs)) is not None:
        show_sweep(sweep, output)
        return
    show_run(open_run(run, runs), output)


def schema(
    task: Annotated[
        str | None, typer.Argument(help="one task's recipes; those of every task if none is given; `sweep` for sweeps")
    ] = None,
) -> None:
    """Print the JSON schema of recipes, or of sweeps, with which an editor completes them."""
    import json

    from footplate.schema import job_schema, sweep_schema

    print(json.dumps(sweep_schema() if task == "sweep" else job_schema(task), indent=2))


def _say_what_next(folder: "RunFolder") -> None:
    from footplate.runs import closing_lines

    with suppress(OSError):  # nobody reads it any more, or the disk that it goes to is full
        print("\n".join(closing_lines(folder)), flush=True)
