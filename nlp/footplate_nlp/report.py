"""What `footplate evaluate` tells beside the scores: by length, the worst sentences, and against another run.

Axes: N sentences.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import model_validator

from footplate.errors import FootplateError
from footplate.section import Count, Section, WholeNumber
from footplate.step import Table
from footplate_nlp.bootstrap import Difference
from footplate_nlp.evaluation import Evaluated, Held
from footplate_nlp.members import Member
from footplate_nlp.metrics import shown
from footplate_nlp.tokenised import Ints

BY_LENGTH = ("loss", "bleu", "chrf", "ter", "exact_match")
"""What the table by length shows: no two that say nearly the same, so that it fits on a screen."""


class Report(Section):
    """What `footplate evaluate` tells beside the scores; nothing of it matters in training."""

    buckets: Count = 5
    """Into how many parts of about equal size the pairs are divided, by the words (between blanks) of the source."""
    worst: WholeNumber = 5
    """How many of the sentences with the lowest chrF are shown."""
    against: Member | None = None
    """What to compare with by paired bootstrap: RUN, or RUN@UPDATE (or @best, @last), also of this run."""
    resamples: Count = 1000
    """How often the pairs are drawn anew to see whether the difference is luck."""

    @model_validator(mode="after")
    def _resamples_are_of_use(self) -> Self:
        if self.against is None and self.resamples != 1000:
            raise ValueError(
                f"resamples: {self.resamples} draws compare two runs, and there is no other; set report.against, or "
                "leave this out"
            )
        return self


def buckets_by_length(lengths_N: Ints, count: int) -> list[Ints]:
    """The rows of each bucket, the shortest first: at most `count` buckets, none empty, no length in two of them."""
    ends = np.unique(np.quantile(lengths_N, np.arange(1, count + 1) / count, method="inverted_cdf"))
    bucket_N = np.searchsorted(ends, lengths_N)
    return [np.flatnonzero(bucket_N == bucket) for bucket in range(len(ends))]


def length_table(held: Held, found: Evaluated, buckets: int) -> Table:
    """Some scores of each bucket by source length, then of all pairs."""
    lengths_N = np.array([len(source.split()) for source, _ in held.texts])
    parts = buckets_by_length(lengths_N, buckets)
    rows = [(_span(lengths_N[part]), part) for part in parts] + [("all", np.arange(len(lengths_N)))]
    names = [name for name in BY_LENGTH if name in found.scores]
    return Table(
        ("source words", "pairs", *names),
        [
            (span, str(len(part)), *(shown(name, found.scores[name].over(part)) for name in names))
            for span, part in rows
        ],
        aligned=True,
    )


def _span(lengths: Ints) -> str:
    return f"{lengths.min()}-{lengths.max()}" if lengths.min() < lengths.max() else str(lengths.min())


def worst_table(held: Held, found: Evaluated, count: int) -> Table:
    """The pairs with the lowest chrF of their own, the lowest first; of equal ones the higher loss."""
    chrf_N = [found.scores["chrf"].over([row]) for row in range(len(held.texts))]
    loss_N = [found.scores["loss"].over([row]) for row in range(len(held.texts))]
    worst = sorted(range(len(held.texts)), key=lambda row: (chrf_N[row], -loss_N[row]))[:count]
    return Table(
        ("pair", "source", "reference", "output"),
        [
            (
                f"{row + 1}, chrf {shown('chrf', chrf_N[row])}, loss {shown('loss', loss_N[row])}",
                *held.texts[row],
                found.outputs[row],
            )
            for row in worst
        ],
    )


def require_same_texts(its_texts: Sequence[tuple[str, str]], texts: Sequence[tuple[str, str]]) -> None:
    """Raise FootplateError where another run's pairs are not the same."""
    for number, (its, this) in enumerate(zip_longest(its_texts, texts), start=1):
        if its != this:
            raise FootplateError(
                f"its pair {number} is not this run's, and only scores of the same pairs can be compared; "
                "name a run with the same corpus"
            )


def comparison_table(name: str, differences: Mapping[str, Difference]) -> Table:
    """Both runs' scores, and by how much this one's are higher."""
    return Table(
        ("metric", "this run", name, "difference", "95 % interval", "p"),
        [
            (
                metric,
                shown(metric, each.this),
                shown(metric, each.other),
                f"{each.value:+.2f}",
                f"{each.low:+.2f} to {each.high:+.2f}",
                f"{each.p:.3f}",
            )
            for metric, each in differences.items()
        ],
        aligned=True,
    )


def keep(
    folder: Path, settings: Mapping[str, Any], held: Held, found: Evaluated, tables: Mapping[str, Table]
) -> Path | None:
    """Write sources, references and outputs, a sentence a line, and `scores.json`; returns the folder they are in.

    That is `folder`, or the first of `folder-2`, `folder-3`, ... which does not hold what other settings found. None,
    and a warning, where it cannot be written: the scores can still be read off the screen.
    """
    try:
        return _write(folder, settings, held, found, tables)
    except OSError as error:
        logging.getLogger("footplate").warning(
            f"{folder}: cannot be written ({error.strerror}); texts and scores are not kept, make room or make it "
            "writable and evaluate again"
        )
        return None


def _write(
    folder: Path, settings: Mapping[str, Any], held: Held, found: Evaluated, tables: Mapping[str, Table]
) -> Path:
    number = 1
    place = folder
    while _settings_in(place) not in (None, json.loads(json.dumps(settings))):
        number += 1
        place = folder.with_name(f"{folder.name}-{number}")
    place.mkdir(parents=True, exist_ok=True)
    sources, references = zip(*held.texts, strict=True)
    for name, lines in (("sources", sources), ("references", references), ("outputs", found.outputs)):
        (place / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    scores = {name: {"value": score.value, "signature": score.signature} for name, score in found.scores.items()}
    as_lists = {name: [list(table.columns), *map(list, table.rows)] for name, table in tables.items()}
    content = {"settings": settings, "scores": scores, "tables": as_lists}
    (place / "scores.json").write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return place


def _settings_in(place: Path) -> Any:
    """What the evaluation that is kept there was asked; None where there is none, or one that was cut off."""
    try:
        return json.loads((place / "scores.json").read_text(encoding="utf-8"))["settings"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
