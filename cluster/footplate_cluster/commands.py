"""The commands `submit`, `jobs`, `status`, `logs` and `stop`; `resume` is the platform's."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from footplate.commands import DEFAULT_RUNS, Device, Overrides
from footplate.errors import FootplateError

if TYPE_CHECKING:
    from footplate_cluster.submission import Submission
    from footplate_cluster.submissions import Submissions

Address = Annotated[
    str | None,
    typer.Option(help="the cluster's dashboard, http://head:8265; RAY_ADDRESS, or what the run says, if none"),
]
AllowOpen = Annotated[bool, typer.Option("--allow-open", help="also a cluster elsewhere that asks for no token")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="show it until it ends; Ctrl-C leaves it running")]
Run = Annotated[str, typer.Argument(help="a run's name, or the path or URL of its folder")]
Runs = Annotated[
    str, typer.Option("--runs", help="the folder that holds the runs: a path that every node sees, or a URL")
]
Send = Annotated[
    list[Path] | None, typer.Option(help="a further file or folder below this one to send; may be given several times")
]
RUNS = str(DEFAULT_RUNS)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (submit, jobs, status, logs, stop):
        app.command()(command)


def submit(
    recipe: Annotated[str, typer.Argument(help="a shipped recipe's name (see `footplate recipes`), or a YAML file")],
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="the cluster's dashboard, http://head:8265; RAY_ADDRESS if none is given")
    ] = None,
    name: Annotated[str | None, typer.Option(help="the run's name; the recipe's, numbered, if none is given")] = None,
    runs: Runs = RUNS,
    workers: Annotated[str | None, typer.Option(help="how many share each update's batch: 2, or 1:4")] = None,
    device: Device = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="a few updates, deterministic, with anomaly detection")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="wait for a cluster that is too small to grow")] = False,
    send: Send = None,
    follow: Follow = False,
    allow_open: AllowOpen = False,
) -> None:
    """Send a recipe to a Ray cluster: footplate submit scan-transformer seed=2 --address http://head:8265"""
    from footplate.job import load_job

    _refuse_a_sweep(recipe)
    flags = {"device": device, "resources.workers": workers, "resources.wait": "true" if wait else None}
    given = [f"{key}={value}" for key, value in flags.items() if value is not None]
    job = load_job(recipe, [*(overrides or []), *given], debug=debug)
    cluster = _cluster(address, None, runs, allow_open)
    _require_shared(cluster, runs)
    sent = cluster.submit(job, name or cluster.free_name(Path(recipe).stem), send=send or (), say=print)
    _say_where(sent)
    if follow:
        follow_to_the_end(sent)


def jobs(address: Address = None, runs: Runs = RUNS, allow_open: AllowOpen = False) -> None:
    """List the runs that were submitted, and what became of them."""
    import time

    from footplate.tables import print_table

    known = _cluster(address, None, runs, allow_open).all()
    if not known:
        print("nothing was submitted; `footplate submit RECIPE --address http://head:8265` does it")
        return
    rows = [
        (
            run.run,
            run.state(),
            run.progress(),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run.job.started)) if run.job is not None else "",
            run.path,
        )
        for run in known
    ]
    print_table(("run", "state", "update", "submitted", "run folder"), rows)


def status(run: Run, address: Address = None, runs: Runs = RUNS, allow_open: AllowOpen = False) -> None:
    """Say how a submitted run is doing."""
    found = _found(run, address, runs, allow_open)
    progress = found.progress()
    print(f"{found.run}: {found.state()}{f', update {progress}' if progress else ''}")
    print(f"  run folder  {found.path}{'' if found.folder is not None else ' (not seen from here)'}")
    if found.job is not None and found.dashboard is not None:
        print(f"  cluster     {found.dashboard.address}, submission {found.job.id}")
    if found.state() == "failed":
        print(f"  because     {str(found.failure()).splitlines()[0]}")


def logs(
    run: Run, address: Address = None, runs: Runs = RUNS, follow: Follow = False, allow_open: AllowOpen = False
) -> None:
    """Print what a submitted run has printed."""
    found = _found(run, address, runs, allow_open)
    if follow and found.is_active:
        follow_to_the_end(found)
    else:
        print(found.logs(), end="")


def stop(run: Run, address: Address = None, runs: Runs = RUNS, allow_open: AllowOpen = False) -> None:
    """Ask a submitted run to save and end, and wait until it has."""
    _found(run, address, runs, allow_open).stop()


def follow_to_the_end(run: "Submission") -> None:
    """Show the run until it ends; Ctrl-C ends the showing alone."""
    from footplate.runs import closing_lines

    try:
        state = run.follow()
    except KeyboardInterrupt:
        argument = f"{run.argument}{run.flags}"
        print(f"\n{run.run}: goes on; `footplate stop {argument}` ends it, `footplate logs -f {argument}` is back here")
        raise
    run = run.refreshed()
    if run.folder is not None and state == "finished":
        print("\n".join(closing_lines(run.folder)))
    elif run.folder is not None:
        print("\n".join(run.stopped_lines()))


def submit_resumption(run: str, runs: str, address: str, *, follow: bool, allow_open: bool) -> None:
    """`footplate resume RUN --address http://head:8265`."""
    cluster = _cluster(address, None, runs, allow_open)
    sent = cluster.resume(run, say=print)
    if not sent.is_active:
        return
    _say_where(sent)
    if follow:
        follow_to_the_end(sent)


def _found(run: str, address: str | None, runs: str, allow_open: bool) -> "Submission":
    """The run; from its folder alone, with a word about it, where its cluster does not answer any more."""
    from footplate_cluster.dashboard import chosen_address
    from footplate_cluster.submissions import Submissions, recorded_address

    try:
        return _cluster(address, run, runs, allow_open).find(run)
    except FootplateError as error:
        if chosen_address(address) is not None or recorded_address(run, runs) is None:
            raise
        print(f"warning: {error}", file=sys.stderr)
        return Submissions(None, runs).find(run)


def _cluster(address: str | None, run: str | None, runs: str, allow_open: bool) -> "Submissions":
    from footplate_cluster.dashboard import Dashboard, chosen_address, is_on_this_machine
    from footplate_cluster.submissions import NO_ADDRESS, Submissions, recorded_address

    chosen = chosen_address(address)
    if chosen is None and run is not None:
        chosen = recorded_address(run, runs)
        if chosen is not None and not is_on_this_machine(chosen):
            # Whoever wrote the folder would get the token.
            raise FootplateError(f"--address: {run} says {chosen}; if you trust that, give it or set RAY_ADDRESS")
    if chosen is None:
        raise FootplateError(NO_ADDRESS)
    return Submissions(Dashboard(chosen, allow_open=allow_open), runs)


def _refuse_a_sweep(recipe: str) -> None:
    from footplate.document import read_document
    from footplate.recipes import list_sweeps

    path = Path(recipe)
    is_file = path.suffix in (".yaml", ".yml") and path.is_file()
    if recipe in list_sweeps() or (is_file and {"recipe", "search"} & set(read_document(path).data)):
        raise FootplateError(
            f"{recipe}: is a sweep; start it on a node of the cluster with `footplate sweep {recipe} --address auto`"
        )


def _require_shared(cluster: "Submissions", runs: str) -> None:
    from footplate_cluster.dashboard import is_on_this_machine

    if runs == RUNS and cluster.dashboard is not None and not is_on_this_machine(cluster.dashboard.address):
        raise FootplateError("--runs: name a folder that every node of the cluster sees, such as --runs /shared/runs")


def _say_where(run: "Submission") -> None:
    print(f"{run.run}: submitted")
    for what, command in (("follow", "logs -f"), ("state", "status"), ("stop", "stop")):
        print(f"  {what:<10}  footplate {command} {run.argument}{run.flags}")
    print(f"  run folder  {run.path}")
