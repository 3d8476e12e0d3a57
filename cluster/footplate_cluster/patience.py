"""Patience: who watches a run for hours goes on watching while the cluster's head is silent for a moment."""

import time
from collections.abc import Callable
from typing import TypeVar

from footplate_cluster.dashboard import SilentError

SECONDS_OF_SILENCE = 60.0
"""A head that is started anew answers within this."""

Result = TypeVar("Result")


class Patience:
    """Asks again and again; only a silence that lasts is an error."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent_since: float | None = None

    def ask(self, question: Callable[[], Result], otherwise: Result) -> Result:
        """The answer, or `otherwise` for now. Raises SilentError after `SECONDS_OF_SILENCE` without any answer."""
        try:
            answer = question()
        except SilentError:
            now = self._clock()
            if self._silent_since is None:
                self._silent_since = now
            if now - self._silent_since >= SECONDS_OF_SILENCE:
                raise
            return otherwise
        self._silent_since = None
        return answer
