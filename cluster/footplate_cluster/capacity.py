"""Room on the cluster: for how many workers there is some, waiting for it, and machines that are about to leave."""

import time
from collections.abc import Callable, Mapping

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from footplate.errors import TrainingError
from footplate.job import Resources
from footplate_cluster.resources import room_on

SECONDS_TO_SETTLE = 5.0
"""What a worker or a machine that just ended held is free again after a moment."""
SECONDS_BETWEEN_LOOKS = 0.5


def nodes() -> list[dict[str, float]]:
    """The resources of each machine of the cluster that this process is connected to, and that stays."""
    leaving = leaving_nodes()
    return [
        node["Resources"]
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["NodeID"] not in leaving
    ]


def leaving_nodes() -> set[str]:
    """The machines that the cluster will take away soon; Ray gives them no new work."""
    return set(ray._private.state.state.get_draining_nodes())


def find_room(
    resources: Resources,
    share: Mapping[str, float],
    patience_seconds: float,
    say: Callable[[str], None],
    is_stopping: Callable[[], bool],
) -> int:
    """With how many workers to start now; 0 where the run is asked to stop meanwhile.

    Waits until there is room for the fewest, and says so. That room is asked for as a placement group, which tells a
    cluster that grows by itself what is needed. Raises TrainingError when patience is over.
    """
    fewest = resources.fewest_workers
    gang = Request(share, fewest)
    others: list[Request] = []
    try:
        if not gang.is_met_within(SECONDS_TO_SETTLE):
            _wait(gang, fewest, share, patience_seconds, say, is_stopping)
        if is_stopping():
            return 0
        most = min(resources.most_workers, max(room_on(nodes(), share), fewest))
        others = [Request(share, 1) for _ in range(most - fewest)]
        end = time.monotonic() + SECONDS_TO_SETTLE
        return fewest + sum([other.is_met_within(max(0.01, end - time.monotonic())) for other in others])
    finally:
        for request in (gang, *others):
            request.withdraw()


def _wait(
    gang: "Request",
    fewest: int,
    share: Mapping[str, float],
    patience_seconds: float,
    say: Callable[[str], None],
    is_stopping: Callable[[], bool],
) -> None:
    wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in share.items())
    count, workers = room_on(nodes(), share), f"{fewest} worker{'s' * (fewest > 1)} of {wanted}"
    reason = f"has room for {count}" if count < fewest else "is busy"
    say(f"waiting: {workers} are needed, and the cluster {reason}")
    advice = "--workers, such as 1:4"
    wait_for_room(gang.is_met_within, workers, advice, patience_seconds, is_stopping)


def wait_for_room(
    is_met_within: Callable[[float], bool],
    wanted: str,
    advice: str,
    patience_seconds: float,
    is_stopping: Callable[[], bool],
) -> None:
    """Return when there is room, or the run is asked to stop. Raises TrainingError when patience is over."""
    began = time.monotonic()
    while not is_met_within(SECONDS_BETWEEN_LOOKS):
        if is_stopping():
            return
        if time.monotonic() - began > patience_seconds:
            raise TrainingError(
                f"the cluster had no room for {wanted} in {patience_seconds:g} seconds; "
                f"give it more machines, or ask for less with {advice}"
            )


class Request:
    """Room for some workers, asked for and held until it is withdrawn; it ends with this process too."""

    def __init__(self, share: Mapping[str, float], workers: int) -> None:
        self._group: PlacementGroup = placement_group([dict(share)] * workers)

    def is_met_within(self, seconds: float) -> bool:
        """Whether all of it is there."""
        return bool(self._group.wait(seconds))

    def withdraw(self) -> None:
        """Give it back."""
        remove_placement_group(self._group)
