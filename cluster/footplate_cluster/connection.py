"""Joining a Ray cluster, or starting one on this machine, and asking whether it can hold the job."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

# Ray reads these when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: whatever else runs would starve the training
# What Ray says about workers and machines that died, at length, on the driver's screen: a line of our own tells it.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

import ray

from footplate.errors import FootplateError
from footplate.job import Job
from footplate_cluster.capacity import room

SECONDS_TO_ANSWER = 5.0


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to the cluster at `address`; None and `local` start one on this machine and end it afterwards.

    Raises FootplateError, before anything is started, where the address is of another kind or nobody answers there.
    """
    _check_address(address)
    if ray.is_initialized():  # a notebook or a test has connected already: its connection stays
        yield
        return
    debugger = os.environ.get("PYTHONBREAKPOINT")
    try:
        ray.init(
            address=address or "local",
            include_dashboard=False if address in (None, "local") else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    except Exception as error:  # of a start that takes too long Ray says so with a bare Exception
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if address in (None, "local"):
            raise FootplateError(
                f"Ray did not start on this machine ({what}); try again when it has memory and processors to spare"
            ) from error
        raise FootplateError(
            f"--address {address}: no Ray cluster answers there ({what}); start one with `ray start --head`"
        ) from error
    finally:
        _restore_debugger(debugger)
    try:
        yield
    finally:
        ray.shutdown()


def _restore_debugger(debugger: str | None) -> None:
    """Ray sends `breakpoint()` to its own debugger; in this process, and in those that it starts, it is the user's."""
    os.environ.pop("PYTHONBREAKPOINT", None)
    if debugger is not None:
        os.environ["PYTHONBREAKPOINT"] = debugger


def _check_address(address: str | None) -> None:
    if address is None:
        return
    if address.startswith("ray://"):
        raise FootplateError(
            f"--address {address}: Ray's client protocol is not used here, a run must outlive a laptop's connection; "
            "use host:6379 from a node of the cluster"
        )
    if address.startswith(("http://", "https://")):
        raise FootplateError(
            f"--address {address}: that is the address of Ray's dashboard; to train give host:6379 or auto"
        )
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise FootplateError(f"--address {address}: is no address of a cluster; give host:6379, auto or local")
    try:
        # Ray itself would try for ten minutes, at length.
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise FootplateError(
            f"--address {address}: nobody answers there ({reason}); start a cluster with `ray start --head`, "
            "or give the address that it printed"
        ) from error


def share_of_a_worker(job: Job) -> dict[str, float]:
    """The resources that each worker reserves.

    Raises FootplateError at once where the cluster does not have them, unless the job waits until it does.
    """
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    workers = job.resources.fewest_workers
    gpus = job.resources.gpus_per_worker
    if gpus == 0 and (job.device == "cuda" or (job.device == "auto" and total.get("GPU", 0) >= workers)):
        gpus = 1
    asked: dict[str, float] = {"CPU": job.resources.cpus_per_worker, "GPU": gpus}
    share = {kind: amount for kind, amount in asked.items() if amount}
    if job.resources.wait:
        return share
    for kind, amount in share.items():
        needed = workers * amount
        if needed > (there := total.get(kind, 0)):
            raise FootplateError(
                f"resources: {workers} x {amount:g} {kind} = {needed:g} {kind} are needed, the cluster has {there:g}; "
                f"ask for fewer with --workers or resources.{kind.lower()}s_per_worker, or let it grow with --wait"
            )
    if (there := room(share)) < workers:
        wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in share.items())
        raise FootplateError(
            f"resources: the cluster's nodes have room for {there} workers of {wanted} each, and {workers} are needed; "
            "a worker lies on one node: ask for less with resources.cpus_per_worker or --workers"
        )
    return share
