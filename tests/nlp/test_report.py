"""What `footplate evaluate` tells beside the scores, on text that is made for it."""

import json
import logging
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics.chrf import CHRF

from footplate.errors import FootplateError
from footplate.step import Table
from footplate_nlp.evaluation import Evaluated, Held
from footplate_nlp.metrics import Score, Scoring, score
from footplate_nlp.report import buckets_by_length, keep, length_table, require_same_texts, worst_table
from footplate_nlp.tokenised import Pairs, Sentences

SOURCES = ["a", "b c", "d e", "f g h", "i j k l", "m n o p q r"]
REFERENCES = ["one", "two words", "two words", "here are three", "now there are four", "and this is six words long"]
OUTPUTS = ["one", "two words", "other text", "here were three", "now there are four", "zzz"]
NLL = [1.0, 2.0, 8.0, 6.0, 4.0, 30.0]


def evaluated() -> tuple[Held, Evaluated]:
    nothing = Pairs(Sentences.of([]), Sentences.of([]))
    held = Held(list(zip(SOURCES, REFERENCES, strict=True)), nothing, {}, None)
    counts = np.array([NLL, [len(reference.split()) + 1 for reference in REFERENCES]]).T
    losses = Score(counts, lambda sums: sums[0] / sums[1])
    scores = {"loss": losses} | score(OUTPUTS, REFERENCES, Scoring(also=("ter",)))
    return held, Evaluated({}, scores, OUTPUTS, Table((), ()))


def test_buckets_are_about_equal_and_never_divide_a_length() -> None:
    lengths = np.array([5, 1, 2, 2, 2, 2, 3, 4])
    assert [bucket.tolist() for bucket in buckets_by_length(lengths, 4)] == [[1, 2, 3, 4, 5], [6], [0, 7]]
    assert [bucket.tolist() for bucket in buckets_by_length(np.array([7, 7]), 5)] == [[0, 1]]


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_every_pair_is_in_one_bucket(count: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 30, size=100)
    buckets = buckets_by_length(lengths, count)
    assert sorted(np.concatenate(buckets).tolist()) == list(range(100))
    assert len(buckets) <= count
    for shorter, longer in pairwise(buckets):
        assert lengths[shorter].max() < lengths[longer].min()


def test_the_table_by_length_by_hand() -> None:
    table = length_table(*evaluated(), buckets=3)
    assert table.columns == ("source words", "pairs", "loss", "bleu", "chrf", "ter", "exact_match")
    assert [row[0] for row in table.rows] == ["1-2", "3", "4-6", "all"]
    assert [row[1] for row in table.rows] == ["3", "1", "2", "6"]
    assert [row[2] for row in table.rows] == ["1.375", "1.500", "2.833", "2.125"]  # 11 / 8, 6 / 4, 34 / 12, 51 / 24
    assert [row[6] for row in table.rows] == ["66.67", "0.00", "50.00", "50.00"]


def test_the_worst_sentences_are_the_worst_by_their_own_chrf() -> None:
    held, found = evaluated()
    own = [
        CHRF().sentence_score(output, [reference]).score for output, reference in zip(OUTPUTS, REFERENCES, strict=True)
    ]
    table = worst_table(held, found, 3)
    assert table.columns == ("pair", "source", "reference", "output")
    assert [row[0].split()[0] for row in table.rows] == ["6,", "3,", "4,"]
    assert [own[5], own[2], own[3]] == sorted(own)[:3]
    assert table.rows[1] == (f"3, chrf {own[2]:.2f}, loss 2.667", "d e", "two words", "other text")


def test_of_equally_bad_sentences_the_less_expected_comes_first() -> None:
    rows = worst_table(*evaluated(), 6).rows
    assert [row[0] for row in rows[3:]] == [
        "5, chrf 100.00, loss 0.800",
        "2, chrf 100.00, loss 0.667",
        "1, chrf 100.00, loss 0.500",
    ]
    assert worst_table(*evaluated(), 0).rows == []


def test_texts_and_scores_are_kept_a_sentence_a_line(tmp_path: Path) -> None:
    held, found = evaluated()
    table = Table(("words", "bleu"), [("1-2", "41.02")])
    place = keep(tmp_path / "evaluations" / "test-000006", {"update": 6}, held, found, {"lengths": table})
    assert place == tmp_path / "evaluations" / "test-000006"
    for name, lines in (("sources", SOURCES), ("references", REFERENCES), ("outputs", OUTPUTS)):
        assert (place / f"{name}.txt").read_text(encoding="utf-8") == "\n".join(lines) + "\n"
    kept = json.loads((place / "scores.json").read_text(encoding="utf-8"))
    assert kept["settings"] == {"update": 6}
    assert kept["scores"]["bleu"] == {"value": found.scores["bleu"].value, "signature": found.scores["bleu"].signature}
    assert kept["tables"] == {"lengths": [["words", "bleu"], ["1-2", "41.02"]]}


def test_only_the_same_evaluation_is_written_over(tmp_path: Path) -> None:
    def kept(**settings: object) -> str:
        place = keep(tmp_path / "test-000006", settings, *evaluated(), {})
        assert place is not None
        return place.name

    assert kept(beam=1) == kept(beam=1) == "test-000006"
    assert kept(beam=5) == "test-000006-2"
    assert kept(beam=(5, 6)) == kept(beam=[5, 6]) == "test-000006-3"
    assert kept(beam=1) == "test-000006"
    (tmp_path / "test-000006-2" / "scores.json").write_text("{")  # cut off: nothing is lost
    assert kept(beam=7) == "test-000006-2"


def test_a_folder_that_cannot_be_written_is_said_and_loses_no_scores(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "evaluations").write_text("a file")
    with caplog.at_level(logging.WARNING, "footplate"):
        assert keep(tmp_path / "evaluations" / "test-000006", {}, *evaluated(), {}) is None
    assert caplog.messages == [
        f"{tmp_path}/evaluations/test-000006: cannot be written (Not a directory); texts and scores are not kept, "
        "make room or make it writable and evaluate again"
    ]


@pytest.mark.parametrize(("its", "number"), [([("a", "b"), ("c", "x")], 2), ([("a", "b")], 2), ([], 1)])
def test_other_texts_are_refused_with_the_first_pair_that_differs(its: list[tuple[str, str]], number: int) -> None:
    with pytest.raises(FootplateError) as error:
        require_same_texts(its, [("a", "b"), ("c", "d")])
    assert str(error.value) == (
        f"its pair {number} is not this run's, and only scores of the same pairs can be compared; "
        "name a run with the same corpus"
    )
