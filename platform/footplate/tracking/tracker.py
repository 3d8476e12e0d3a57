"""`Tracker`: who is told what happens in a run; and how several of them are told without hurting the run."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Protocol

from footplate.step import Activity, Medium


class Tracker(Protocol):
    """Whoever is told about a run: a file, the screen, W&B, TensorBoard. Only rank 0 has any."""

    def row(self, row: Mapping[str, float]) -> None:
        """The metrics of the updates since the last row.

        `update` is its number; names without a slash are work done so far (`target_tokens`, `frames`); the others are
        metrics by group: `train/loss`, `eval/bleu`, `rollout/return`, `speed/updates_per_second`, `time/seconds`,
        and what each rank and actor takes of its machine: `system/0/memory_gib`.
        """

    def media(self, update: int, media: Mapping[str, Medium]) -> None:
        """Tables, pictures and videos, by name."""

    def message(self, text: str) -> None:
        """A line for people to read."""

    def activity(self, activity: Activity) -> None:
        """How far something is that happens between two updates."""

    def close(self, outcome: str) -> None:
        """The run is over: `finished`, `stopped`, `failed`, or `killed` with another worker. Nothing follows."""


class Call(NamedTuple):
    """One call of a tracker's method, to be made later or by another thread."""

    method: Literal["row", "media", "message", "activity", "close"]
    arguments: tuple[object, ...]

    def make(self, tracker: Tracker) -> None:
        """Call the method of this tracker."""
        getattr(tracker, self.method)(*self.arguments)


class Relay(ABC):
    """A tracker that passes every call on, by the one method that a subclass writes."""

    @abstractmethod
    def pass_on(self, call: Call) -> None:
        """Make the call, now or later, of whomever it is for."""

    def row(self, row: Mapping[str, float]) -> None:
        self.pass_on(Call("row", (row,)))

    def media(self, update: int, media: Mapping[str, Medium]) -> None:
        self.pass_on(Call("media", (update, media)))

    def message(self, text: str) -> None:
        self.pass_on(Call("message", (text,)))

    def activity(self, activity: Activity) -> None:
        self.pass_on(Call("activity", (activity,)))

    def close(self, outcome: str) -> None:
        self.pass_on(Call("close", (outcome,)))


class Guard(Relay):
    """A tracker that is called at once, and that is switched off with one warning when it fails."""

    def __init__(self, name: str, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._name = name
        self._tracker = tracker
        self._warn = warn
        self._is_on = True

    def pass_on(self, call: Call) -> None:
        if not self._is_on:
            return
        try:
            call.make(self._tracker)
        except Exception as error:
            self._is_on = False  # before the warning, which comes back here
            self._warn(switched_off(self._name, error))


class Trackers(Relay):
    """All trackers of a run as one: the truth first, then whoever else listens, in the order in which they were added.

    A failure of `truth` is a failure of the run. The others fail alone: they are to be added as a `Guard` or a `Feed`,
    with `message` of this object to warn by.
    """

    def __init__(self, truth: Tracker) -> None:
        self._truth = truth
        self._others: list[Tracker] = []

    def add(self, tracker: Tracker) -> None:
        """Tell this tracker too."""
        self._others.append(tracker)

    def pass_on(self, call: Call) -> None:
        call.make(self._truth)
        for tracker in self._others:
            call.make(tracker)

    def close(self, outcome: str) -> None:
        # The last added is closed first: the slow ones, whose last words the log and the screen are still to hear.
        while self._others:
            self._others[-1].close(outcome)
            self._others.pop()
        self._truth.close(outcome)


def switched_off(name: str, error: Exception) -> str:
    """The warning that a tracker has failed."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{name}: {reason}; this tracker is switched off, training goes on"
