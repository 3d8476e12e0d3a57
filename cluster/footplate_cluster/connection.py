"""Joining a Ray cluster, or starting one on this machine, and asking whether it can hold the job."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

from footplate.errors import FootplateError
from footplate_cluster.authentication import find_token, token_of_this_machine

# Ray reads these when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: whatever else runs would starve the training
# What Ray says about workers and machines that died, at length, on the driver's screen: a line of our own tells it.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

SECONDS_TO_ANSWER = 5.0

if find_spec("ray") is None:  # which is imported once the address is known to be one, for that takes seconds
    raise ModuleNotFoundError("No module named 'ray'", name="ray")


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to the cluster at `address`; None and `local` start one on this machine and end it afterwards.

    Raises FootplateError, before anything is started, where the address is of another kind or nobody answers there.
    """
    _check_address(address)
    import ray

    if ray.is_initialized():  # a notebook or a test has connected already: its connection stays
        yield
        return
    debugger = os.environ.get("PYTHONBREAKPOINT")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with token_of_this_machine() if address in (None, "local") else nullcontext():
            ray.init(
                address=address or "local",
                include_dashboard=False if address in (None, "local") else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
            )
    except Exception as error:  # Ray raises bare Exceptions too
        raise _not_connected(address, error) from error
    finally:
        _restore_debugger(debugger)
        _restore_sigterm(on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _restore_debugger(debugger: str | None) -> None:
    """Ray sends `breakpoint()` to its own debugger; in this process, and in those that it starts, it is the user's."""
    os.environ.pop("PYTHONBREAKPOINT", None)
    if debugger is not None:
        os.environ["PYTHONBREAKPOINT"] = debugger


def _not_connected(address: str | None, error: Exception) -> FootplateError:
    what = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if address in (None, "local"):
        return FootplateError(
            f"Ray did not start on this machine ({what}); try again when it has memory and processors to spare"
        )
    token = find_token()
    refusal = "asks for a token" if token is None else f"refuses the token in {token.source}"
    return FootplateError(
        f"--address {address}: no Ray cluster answers there, or it {refusal} ({what}); start one with "
        "`ray start --head`, or put its token into ~/.ray/auth_token"
    )


def _restore_sigterm(handler: Any) -> None:
    """Ray ends a driver at once on SIGTERM, which is how `ray job stop` asks; whoever saves first has a handler."""
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


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
            f"--address {address}: that is the address of Ray's dashboard; to train give host:6379 or auto, "
            "to send the job there use `footplate submit`"
        )
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
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
