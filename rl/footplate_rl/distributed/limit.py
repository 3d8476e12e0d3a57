"""The limit that holds a learner and those who fill its replay in step."""

from collections.abc import Mapping
from typing import Any


class SamplesPerInsert:
    """Lets windows be drawn and transitions be inserted so that drawn = ratio (inserted - free), give or take a lead.

    Source: Cassirer et al. 2021, "Reverb: a framework for experience replay" (arXiv 2102.04736), section 3.2.

    >>> limit = SamplesPerInsert(ratio=2.0, free=10, lead=5)
    >>> limit.may_insert(15), limit.may_insert(16), limit.may_draw(1)
    (True, False, False)
    >>> limit.promised = limit.inserted = 12
    >>> limit.may_draw(14), limit.may_draw(15)
    (True, False)
    """

    def __init__(self, ratio: float, free: int, lead: int) -> None:
        """`ratio` windows for each transition behind the first `free`; `lead` is counted in transitions."""
        self._ratio, self._free, self._lead = ratio, free, lead
        self.promised = 0
        """Transitions that are stored or being played."""
        self.inserted = 0
        """Transitions that are stored."""
        self.drawn = 0
        """Windows that were asked for."""

    def may_insert(self, count: int) -> bool:
        """Whether so many transitions more may be played."""
        return self._ratio * (self.promised + count - self._free - self._lead) <= self.drawn

    def may_draw(self, count: int) -> bool:
        """Whether so many windows more may be drawn."""
        return self.drawn + count <= self._ratio * (self.inserted - self._free + self._lead)

    def state_dict(self) -> dict[str, Any]:
        """While nothing is being played."""
        return {"inserted": self.inserted, "drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.promised = self.inserted = state["inserted"]
        self.drawn = state["drawn"]
