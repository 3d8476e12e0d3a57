"""The flags of `translate` that say how to search, as changes to the recipe's `evaluate.search`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from footplate.errors import ConfigError, FootplateError
from footplate.job import Job
from footplate_nlp.beam import BeamConfig
from footplate_nlp.sampling import SampleConfig
from footplate_nlp.search import GreedyConfig
from footplate_nlp.translation import Config

Load = Callable[[list[str]], tuple[Job, Config]]
"""From overrides to a job and its configuration. Raises ConfigError."""

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
        Whether they suit the search, where that is the recipe's, `check_suits` tells.
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
        for name, (within, allowed) in _RANGES.items():
            value = given.get(name)
            if isinstance(value, int | float) and not within(value):
                raise FootplateError(f"{_flag(name)}: {value:g} is out of range; give {allowed}")
        if self.stop is not None and self.stop not in _STOPS:
            raise FootplateError(f"--stop: {self.stop!r} is no rule; give {', '.join(_STOPS[:-1])} or {_STOPS[-1]}")
        if self.beam is not None:
            self._check_n_best(self.beam)

    def check_suits(self, search: GreedyConfig | BeamConfig | SampleConfig) -> None:
        """Raise FootplateError, by its name, for a flag that is not about the kind of search that there is."""
        given = {name for name, value in vars(self).items() if value is not None}
        for name in _OF_SAMPLING:
            if name in given and search.kind != "sample":
                raise FootplateError(f"{_flag(name)}: is for sampling; add --sample, or leave it out")
        for name, why in _OF_A_BEAM.items():
            if name in given and search.kind != "beam":
                raise FootplateError(f"{_flag(name)}: {why}; add --beam")
        if self.n_best > 1 and search.kind == "greedy":
            raise FootplateError(
                f"--n-best: {self.n_best} translations need a beam; add --beam {self.n_best} or more, or --sample"
            )
        if search.kind == "beam":
            self._check_n_best(search.size)

    def _check_n_best(self, size: int) -> None:
        if self.n_best > size:
            raise FootplateError(
                f"--n-best: {self.n_best} translations are more than a beam of {size} has; "
                f"raise --beam to {self.n_best} or more"
            )


def load_with_flags(flags: SearchFlags, overrides: Sequence[str], load: Load) -> tuple[Job, Config]:
    """What `load` makes of the overrides and of what the flags change.

    Which flags suit depends on the search that results, and only loading tells which that is. A search refuses the keys
    of another kind; so where the flags' keys are refused, it is loaded without them, to say it of the flag instead.
    """
    changes = flags.overrides()
    try:
        loaded = load([*_lines(changes), *overrides])
    except ConfigError:
        whole = {f"evaluate.search.{key}" for key in ("kind", "size", "samples", "n_best")}
        _, config = load([*_lines({key: value for key, value in changes.items() if key in whole}), *overrides])
        flags.check_suits(config.evaluate.search)
        raise
    search = loaded[1].evaluate.search
    flags.check_suits(search)
    if flags.n_best == 1:
        return loaded
    key = "samples" if search.kind == "sample" else "n_best"
    return load([*_lines(changes), *overrides, f"evaluate.search.{key}={flags.n_best}"])


def _lines(changes: Mapping[str, object]) -> list[str]:
    return [f"{key}={value}" for key, value in changes.items()]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
