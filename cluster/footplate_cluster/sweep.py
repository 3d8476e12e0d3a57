"""Sweeps on Ray Tune: the sweeper behind the entry point `footplate.sweepers`.

Tune places trials, runs as many at a time as there is room for, and replaces processes that die. Which trials there
are, and where each goes on, is decided by the sweep's folder alone; what Tune keeps for itself is thrown away.
"""

import shutil

from footplate.errors import FootplateError
from footplate.folder import RunFolder, relative
from footplate.interrupts import stop_on_signals
from footplate.sweeps.folder import SweepFolder
from footplate.sweeps.sweep import Sweep
from footplate_cluster.connection import connected
from footplate_cluster.resources import room_on

SECONDS_BETWEEN_LOOKS = 0.1


def run_sweep(sweep: SweepFolder) -> None:
    """Run the trials that are not over yet, each from its newest checkpoint, saying a line for each event.

    Ctrl-C and SIGTERM let the running trials save and end. Raises FootplateError where there is no room for a trial, or
    where a machine does not see the sweep's folder.
    """
    scratch = sweep.path / "ray"
    with RunFolder(sweep.path).lock(), stop_on_signals() as stop_requested, connected(sweep.sweep.address):
        from footplate_cluster.capacity import nodes
        from footplate_cluster.tuning import Tuning

        waiting = [standing.trial for standing in sweep.standings() if not standing.is_over]
        share, room = share_on(nodes(), sweep.sweep, sweep.job().device)
        at_a_time = min(room, sweep.sweep.concurrent or room, len(waiting))
        print(
            f"{sweep.name}: {len(waiting)} of {len(sweep.trials)} trials to run, {at_a_time} at a time; "
            f"`footplate runs --runs {relative(sweep.path)}` lists them",
            flush=True,
        )
        sweep.stop.unlink(missing_ok=True)
        tuning = Tuning(sweep, waiting, share, at_a_time, scratch)
        try:
            tuning.start()
            while tuning.is_alive():
                reason = tuning.asked.problem or stop_requested()
                if reason is not None and not tuning.asked.to_stop:
                    sweep.stop.write_text(reason, encoding="utf-8")
                    tuning.asked.to_stop = True
                tuning.join(SECONDS_BETWEEN_LOOKS)
        finally:
            sweep.stop.unlink(missing_ok=True)
            shutil.rmtree(scratch, ignore_errors=True)
    if tuning.error is not None:
        raise tuning.error
    if tuning.asked.problem is not None:
        raise FootplateError(tuning.asked.problem)


def share_on(nodes: list[dict[str, float]], sweep: Sweep, device: str) -> tuple[dict[str, float], int]:
    """What each trial reserves, and how many there is room for. Raises FootplateError where there is none for any."""
    gpus = sweep.resources.gpus
    if gpus is None:
        gpus = 1.0 if device == "cuda" or (device == "auto" and any(node.get("GPU") for node in nodes)) else 0.0
    share = {kind: amount for kind, amount in (("CPU", sweep.resources.cpus), ("GPU", gpus)) if amount}
    room = room_on(nodes, share)
    if not room:
        wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in share.items())
        there = "; ".join(" and ".join(f"{node.get(kind, 0):g} {kind}" for kind in share) for node in nodes)
        raise FootplateError(
            f"resources: a trial needs {wanted} on one node, and the cluster's nodes have {there}; "
            "ask for less with resources.cpus or resources.gpus"
        )
    return share, room
