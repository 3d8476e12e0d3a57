"""Scores of translations: worked by hand, and with the signatures that make them comparable."""

import gc
from typing import Literal

import pytest

from footplate_nlp.metrics import Scoring, as_table, score

CASED = Scoring()
LITERATURE = Scoring(tokenize="none", lowercase=True)


def test_equal_texts_score_a_hundred_everywhere() -> None:
    texts = ["A man is sleeping on the sofa.", "Two dogs run."]
    assert [found.value for found in score(texts, texts, CASED).values()] == pytest.approx([100.0] * 4)


def test_bleu_by_hand() -> None:
    # Precisions 4/5, 3/4, 2/3, 1/2 and equal lengths: the geometric mean is (1/5)^(1/4).
    found = score(["a b c d x"], ["a b c d e"], LITERATURE)["bleu"]
    assert found.value == pytest.approx(100 * 0.2**0.25)


def test_exact_match_and_token_accuracy_by_hand() -> None:
    found = score(["a b c", "a b", "x x"], ["a b c", "a c d e", "x"], CASED)
    assert found["exact_match"].value == pytest.approx(100 * 1 / 3)
    assert found["token_accuracy"].value == pytest.approx(100 * (3 + 1 + 1) / (3 + 4 + 2))


def test_case_counts_unless_it_is_told_not_to() -> None:
    assert score(["A DOG RUNS FAST"], ["a dog runs fast"], CASED)["bleu"].value < 50
    assert score(["A DOG RUNS FAST"], ["a dog runs fast"], LITERATURE)["bleu"].value == pytest.approx(100)


def test_tokenised_text_is_left_as_it_is_by_none_and_split_by_13a() -> None:
    outputs, references = ["it is red, or not so"], ["it is red , or not so"]
    assert score(outputs, references, CASED)["bleu"].value == pytest.approx(100)
    assert score(outputs, references, LITERATURE)["bleu"].value < 100


def test_numbers_come_with_the_signature_of_sacrebleu() -> None:
    table = as_table(score(["a b c d"], ["a b c d"], CASED))
    assert table.columns == ("metric", "value", "signature")
    name, value, signature = table.rows[0]
    assert (name, value) == ("bleu", "100.00")
    assert signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    signature = score(["a b c d"], ["a b c d"], LITERATURE)["bleu"].signature
    assert signature.startswith("nrefs:1|case:lc|eff:no|tok:none|smooth:exp|version:")


@pytest.mark.parametrize("tokenize", ["13a", "intl", "char", "zh"])
def test_scoring_keeps_none_of_the_text(tokenize: Literal["13a", "intl", "char", "zh"]) -> None:
    scoring = Scoring(tokenize=tokenize)
    held = []
    for round_number in range(3):
        lines = [f"line {number} of round {round_number}" for number in range(200)]
        score(lines, lines, scoring)
        gc.collect()
        held.append(len(gc.get_objects()))
    assert held[2] - held[1] < 100
