"""The roll of a run's workers: who is where, and who was left waiting for another.

It lies in the cluster's own key-value store, which outlives every worker and costs no process.
"""

import json
import os
import socket
from typing import NamedTuple

import ray
from ray.experimental import internal_kv as store

_NAMESPACE = "footplate"


class Place(NamedTuple):
    """Where a worker runs."""

    host: str
    process: int
    node: str
    """Ray's name of the machine, as in `ray.nodes()`."""


class Roll:
    """The roll of one start of the workers, told from others by its key; the driver and each worker open it."""

    def __init__(self, key: str) -> None:
        self._prefix = f"{key}/"

    def sign(self, rank: int) -> None:
        """Note where this worker runs."""
        place = Place(socket.gethostname(), os.getpid(), ray.get_runtime_context().get_node_id())
        self._put(f"place/{rank}", json.dumps(place))

    def wait_in_vain(self, rank: int) -> None:
        """Note that this worker is well, and that another one let it wait too long."""
        self._put(f"waiting/{rank}", "")

    def places(self) -> dict[int, Place]:
        """Where each worker runs, by rank; those that have not come so far are missing."""
        keys = store._internal_kv_list(f"{self._prefix}place/", namespace=_NAMESPACE)
        found = {_rank(key): store._internal_kv_get(key, namespace=_NAMESPACE) for key in keys}
        return {rank: Place(*json.loads(place)) for rank, place in sorted(found.items()) if place is not None}

    def waiting(self) -> set[int]:
        """The ranks that waited in vain."""
        keys = store._internal_kv_list(f"{self._prefix}waiting/", namespace=_NAMESPACE)
        return {_rank(key) for key in keys}

    def clear(self) -> None:
        """Forget it all."""
        store._internal_kv_del(self._prefix, del_by_prefix=True, namespace=_NAMESPACE)

    def _put(self, name: str, value: str) -> None:
        store._internal_kv_put(self._prefix + name, value, namespace=_NAMESPACE)


def _rank(key: bytes) -> int:
    return int(key.rsplit(b"/", 1)[-1])
