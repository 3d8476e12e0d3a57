"""The flags of `translate` that say how to search, as changes to the recipe's `evaluate.search`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from footplate.errors import FootplateError

_RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "length_penalty": (lambda value: 0 <= value <= 10, "a number from 0 to 10"),
    "temperature": (lambda value: 1e-6 <= value <= 1e6, "a number from 0.000001 to 1000000"),
    "top_p": (lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "top_k": (lambda value: value >= 1, "a whole number above 0"),
    "repetition_penalty": (lambda value: 1 <= value <= 1e6, "a number from 1 to 1000000"),
    "no_repeat_ngram": (lambda value: value >= 1, "a whole number above 0"),
    "minimum_length": (lambda value: value >= 0, "a whole number that is not negative"),
}
"""What a flag may be, and how that is said; the recipe's keys have the same ranges, but the user gave no key."""

_STOPS = ("first", "k_finished", "all", "optimal")
_OF_A_BEAM = {"length_penalty": "compares the hypotheses of a beam", "stop": "says when a beam is done"}
_OF_SAMPLING = ("temperature", "top_p", "top_k")
_KEYS = {
    "beam": "size",
    "stop": "stop",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "minimum_length": "length.minimum",
    "no_repeat_ngram": "constraints.no_repeat_ngram",
    "repetition_penalty": "constraints.repetition_penalty",
}


@dataclass(frozen=True)
class SearchFlags:
    """As given on the command line; None where a flag was not."""

    beam: int | None = None
    length_penalty: float | None = None
    stop: str | None = None
    n_best: int = 1
    sample: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    minimum_length: int | None = None
    no_repeat_ngram: int | None = None
    repetition_penalty: float | None = None

    def overrides(self) -> dict[str, object]:
        """Changes to the recipe, by key; what they do not name stays as the recipe says.

        Raises FootplateError, by the flag's own name, for a value out of range and for flags that exclude each other.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        self._check(given)
        search: dict[str, object] = {}
        if self.sample:
            search = {"kind": "sample", "samples": self.n_best}
        if self.beam is not None:
            search = {"kind": "beam", "n_best": self.n_best}
        search |= {key: given[name] for name, key in _KEYS.items() if name in given}
        if self.length_penalty is not None:
            search["length_penalty"] = json.dumps({"kind": "average", "alpha": self.length_penalty})
        return {f"evaluate.search.{key}": value for key, value in search.items()}

    def _check(self, given: Mapping[str, object]) -> None:
        if self.sample and {"beam", "length_penalty", "stop"} & set(given):
            raise FootplateError(
                "--sample: draws tokens, so there is no --beam, no --length-penalty and no --stop; leave one out"
            )
        for name in _OF_SAMPLING:
            if name in given and not self.sample:
                raise FootplateError(f"{_flag(name)}: is for sampling; add --sample, or leave it out")
        for name, (within, allowed) in _RANGES.items():
            value = given.get(name)
            if isinstance(value, int | float) and not within(value):
                raise FootplateError(f"{_flag(name)}: {value:g} is out of range; give {allowed}")
        if self.stop is not None and self.stop not in _STOPS:
            raise FootplateError(f"--stop: {self.stop!r} is no rule; give {', '.join(_STOPS[:-1])} or {_STOPS[-1]}")
        if self.beam is not None and self.n_best > self.beam:
            raise FootplateError(
                f"--n-best: {self.n_best} translations are more than a beam of {self.beam} has; "
                f"raise --beam to {self.n_best} or more"
            )
        if self.n_best > 1 and self.beam is None and not self.sample:
            raise FootplateError(
                f"--n-best: {self.n_best} translations need a beam; add --beam {self.n_best} or more, or --sample"
            )
        for name, why in _OF_A_BEAM.items():
            if name in given and self.beam is None:
                raise FootplateError(f"{_flag(name)}: {why}; add --beam")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
