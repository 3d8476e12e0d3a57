"""`Sweep`: a sweep's file as plain data, and the trials that follow from it."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from footplate.job import Best
from footplate.section import Count, NonNegative, Positive, Section
from footplate.sweeps.space import Choice, draw

MOST_TRIALS = 10_000
LONGEST_NAME = 120
KEPT_BY_THE_SWEEP = ("task", "on", "address", "resources", "best", "about")
"""Keys of a job that no trial may have to itself, or no two trials could be compared."""
_NOT_FOR_NAMES = re.compile(r"[^A-Za-z0-9.+_-]+")


class RandomSearch(Section):
    """Trials drawn independently. Source: Bergstra & Bengio 2012, "Random search for hyper-parameter optimization"."""

    kind: Literal["random"] = "random"
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)]
    """How many."""
    seed: int = 1
    """What the settings of the trials follow from; the trials themselves train with the recipe's seed."""


class GridSearch(Section):
    """Every combination of the space's lists, the last key changing fastest."""

    kind: Literal["grid"]


class Asha(Section):
    """Asynchronous successive halving, in the form that stops trials and never pauses them.

    A trial that reaches a rung (`grace_updates` times a power of `reduction_factor`) stops there unless its best score
    so far is among the best 1 / `reduction_factor` of those that have come by.

    Source: Li et al. 2020, "A system for massively parallel hyperparameter tuning", there with pauses and promotions.
    """

    kind: Literal["asha"]
    grace_updates: Count
    """No trial is stopped before so many updates."""
    reduction_factor: Annotated[float, Field(ge=1.5)] = 3.0
    """How many trials there are for each that goes on, and by how much rungs lie apart."""


class TrialResources(Section):
    """What each trial reserves; it is one process on one machine."""

    cpus: Positive = 1
    """CPU cores; also how many threads torch takes where the recipe says nothing."""
    gpus: NonNegative | None = None
    """GPUs, or a part of one (0.5: two trials share it); null is one where the cluster has any and `device` allows."""


class Sweep(Section):
    """A sweep: one recipe, the space to search in, and how."""

    recipe: str
    """A shipped recipe's name, or a YAML file (relative to this one, or to the working directory)."""
    about: str = ""
    """One line that says what this is; shown by `footplate recipes`."""
    overrides: dict[str, JsonValue] = Field(default_factory=dict)
    """What every trial changes in the recipe, laid out as a recipe is; `optimizer.kind: sgd` is as good."""
    space: dict[str, Choice]
    """What differs between trials: a key of the recipe (`optimizer.learning_rate`), and what it may become."""
    search: Annotated[RandomSearch | GridSearch, Field(discriminator="kind")]
    """How trials are chosen from the space."""
    best: Best | None = None
    """What a trial's score is; null is the recipe's own `best`."""
    scheduler: Asha | None = None
    """What stops trials that do badly; null lets each train to its end."""
    resources: TrialResources = TrialResources()
    """What each trial reserves."""
    concurrent: Count | None = None
    """At most so many trials at a time; null is as many as there is room for."""
    address: str | None = None
    """The Ray cluster: `auto` or `host:6379`; null, and `local`, start one on this machine."""

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        if not self.space:
            raise ValueError(
                "space: is empty; name a key of the recipe and what it may become, such as seed: [1, 2, 3]"
            )
        for key, choice in self.space.items():
            if choice == ():
                raise ValueError(f"space: {key} is an empty list; write the values to choose from")
            if key.partition(".")[0] in KEPT_BY_THE_SWEEP:
                raise ValueError(f"space: {key} is the same for all trials; set it in overrides or in the sweep")
            if clash := next((fixed for fixed, _ in self.fixed if f"{fixed}.".startswith(f"{key}.")), None):
                raise ValueError(f"overrides: {clash} is fixed here, and {key} is in the space too; remove one of them")
        if isinstance(self.search, GridSearch):
            for key, choice in self.space.items():
                if not isinstance(choice, tuple):
                    raise ValueError(
                        f"space: {key} is {choice.kind}, and a grid takes lists; list its values, "
                        "or set search.kind to random"
                    )
            if self.trials > MOST_TRIALS:
                raise ValueError(
                    f"space: the grid has {self.trials:,} combinations, at most {MOST_TRIALS:,} are taken; "
                    "list fewer values, or set search.kind to random"
                )
        return self

    @property
    def trials(self) -> int:
        """How many trials there are."""
        if isinstance(self.search, RandomSearch):
            return self.search.trials
        return math.prod(len(choice) for choice in self.space.values() if isinstance(choice, tuple))

    @property
    def fixed(self) -> list[tuple[str, JsonValue]]:
        """The overrides, one key at a time: `evaluate: {episodes: 5}` changes only `evaluate.episodes`."""
        return list(_leaves(self.overrides))


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep: its number, from 1, the keys that are its own, and the name of its run folder."""

    number: int
    settings: Mapping[str, JsonValue]
    name: str


def trials_of(sweep: Sweep) -> list[Trial]:
    """Every trial, in order; the same ones each time."""
    labels = short_keys(list(sweep.space))
    width = len(str(sweep.trials))
    return [
        Trial(number, settings, _name(f"{number:0{width}}", labels, settings))
        for number, settings in enumerate(_settings(sweep), start=1)
    ]


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """What to call each key: its last part where no other key ends in it, or else all of it.

    >>> short_keys(["optimizer.learning_rate", "encoder.width", "decoder.width"])
    {'optimizer.learning_rate': 'learning_rate', 'encoder.width': 'encoder.width', 'decoder.width': 'decoder.width'}
    """
    ends = [key.rpartition(".")[2] for key in keys]
    return {key: end if ends.count(end) == 1 and end != "kind" else key for key, end in zip(keys, ends, strict=True)}


def shown_setting(value: JsonValue) -> str:
    """A value in a table, a picture or a name: sections by their kind.

    >>> shown_setting({"kind": "sgd", "momentum": 0.9}), shown_setting([1, 0.5]), shown_setting(True)
    ('sgd momentum=0.9', '1 0.5', 'true')
    """
    if isinstance(value, dict):
        parts = (
            shown_setting(entry) if key == "kind" else f"{key}={shown_setting(entry)}" for key, entry in value.items()
        )
        return " ".join(parts) or "{}"
    if isinstance(value, list):
        return " ".join(map(shown_setting, value))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.{6}g}" if isinstance(value, float) else str(value)


def _settings(sweep: Sweep) -> Iterator[dict[str, JsonValue]]:
    if isinstance(sweep.search, GridSearch):
        lists = [choice for choice in sweep.space.values() if isinstance(choice, tuple)]
        for values in itertools.product(*lists):
            yield dict(zip(sweep.space, values, strict=True))
        return
    for number in range(1, sweep.search.trials + 1):
        yield {key: draw(choice, sweep.search.seed, key, number) for key, choice in sweep.space.items()}


def _name(number: str, labels: Mapping[str, str], settings: Mapping[str, JsonValue]) -> str:
    parts = (f"{labels[key]}={_NOT_FOR_NAMES.sub('-', shown_setting(value))}" for key, value in settings.items())
    return f"{number}-{','.join(parts)}"[:LONGEST_NAME].rstrip(".,=")


def _leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, JsonValue]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
