"""The command `footplate sweep`."""

from typing import Annotated

import typer

from footplate.commands import DEFAULT_RUNS


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(sweep)


def sweep(
    sweep: Annotated[str, typer.Argument(help="a YAML file, or a shipped sweep's name (see `footplate recipes`)")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="changes to the sweep's keys: overrides.updates=500"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="the sweep's name; the file's, numbered, if none is given")] = None,
    runs: Annotated[str, typer.Option("--runs", help="the folder that holds runs and sweeps: a path")] = DEFAULT_RUNS,
    address: Annotated[str | None, typer.Option(help="the Ray cluster: local, auto, or host:6379")] = None,
    concurrent: Annotated[int | None, typer.Option(help="at most so many trials at a time")] = None,
) -> None:
    """Train a recipe with many settings on Ray: footplate sweep cartpole-paac-rates search.trials=10"""
    from footplate.sweeps.launch import start_sweep
    from footplate.sweeps.plan import load_sweep

    flags = {"address": address, "concurrent": concurrent}
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    start_sweep(load_sweep(sweep, [*(overrides or []), *given]), name, runs)
