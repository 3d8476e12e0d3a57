"""What is logged to the logger `footplate`, on its way to those who are told about a run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from footplate.tracking.tracker import Tracker


@contextmanager
def messages_to(tracker: Tracker) -> Iterator[None]:
    """Meanwhile the tracker hears `logging.getLogger("footplate").info(...)` and whatever is more urgent."""
    handler = _Handler(tracker)
    logger = logging.getLogger("footplate")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, tracker: Tracker) -> None:
        super().__init__(logging.INFO)
        self._tracker = tracker

    def emit(self, record: logging.LogRecord) -> None:
        self._tracker.message(record.getMessage())
