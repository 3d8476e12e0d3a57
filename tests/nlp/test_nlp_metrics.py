"""Scores of translations: worked by hand, and with the signatures that make them comparable."""

import gc
from typing import Literal

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from footplate.errors import ConfigError
from footplate.job import load_job
from footplate_nlp.corpora import CopyCorpus, ParallelCorpus
from footplate_nlp.evaluation import Evaluation, target_language
from footplate_nlp.metrics import ALL, Scoring, as_table, score

CASED = Scoring()
LITERATURE = Scoring(tokenize="none", lowercase=True)
EVERYTHING = Scoring(also=ALL)
OUTPUTS = ["A man is asleep on the sofa.", "Two dogs run", "There's a \"Red\" car, isn't there?", "x y z"]
REFERENCES = ["A man is sleeping on a sofa.", "two dogs are running .", 'There is a "red" car, no?', "Nobody knows."]


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


def test_all_scores_are_sacrebleu_s_own() -> None:
    found = score(OUTPUTS, REFERENCES, EVERYTHING, "en")
    theirs = {"bleu": BLEU(), "chrf": CHRF(), "chrf_plus_plus": CHRF(word_order=2), "ter": TER()}
    for name, metric in theirs.items():
        assert found[name].value == metric.corpus_score(OUTPUTS, [REFERENCES]).score
        assert found[name].signature == str(metric.get_signature())
    assert list(found) == [
        "bleu", "bleu_tokenised", "chrf", "chrf_plus_plus", "ter", "exact_match", "token_accuracy"
    ]  # fmt: skip


@pytest.mark.parametrize("rows", [[1], [0, 2], [3, 0, 0, 2, 3]])
def test_the_score_of_some_sentences_is_that_of_a_corpus_of_them(rows: list[int]) -> None:
    some = score([OUTPUTS[row] for row in rows], [REFERENCES[row] for row in rows], EVERYTHING, "en")
    for name, found in score(OUTPUTS, REFERENCES, EVERYTHING, "en").items():
        assert found.over(np.array(rows)) == some[name].value


def test_ter_by_hand() -> None:
    # One word replaced, then one block moved and one word left out: 1 + 2 edits of 4 + 5 words.
    found = score(["a b x d", "d e a b"], ["a b c d", "a b c d e"], EVERYTHING)["ter"]
    assert found.value == pytest.approx(100 * (1 + 2) / (4 + 5))


def test_training_counts_only_what_is_asked_for_beside_bleu_and_chrf() -> None:
    few = ["bleu", "chrf", "exact_match", "token_accuracy"]
    assert list(score(OUTPUTS, REFERENCES, CASED, "en")) == few
    assert list(score(OUTPUTS, REFERENCES, Scoring(also=("ter",)), "en")) == [*few[:2], "ter", *few[2:]]


def test_the_literature_s_bleu_sees_neither_case_nor_kinds_of_quotes() -> None:
    outputs, references = ["EIN Schild: “Halt”, sagt er."], ['Ein Schild: "Halt", sagt er.']
    found = score(outputs, references, EVERYTHING, "de")
    assert found["bleu_tokenised"].value == pytest.approx(100)
    assert found["bleu"].value < 50
    signature = found["bleu_tokenised"].signature
    assert signature.startswith("nrefs:1|case:lc|eff:no|tok:norm-moses-de-0.")


def test_the_literature_s_bleu_takes_text_that_is_tokenised_already_as_it_is() -> None:
    outputs, references = ["ein mann , er sagt &quot; ja &quot; ."], ["ein mann , er sagt &quot; nein &quot; ."]
    tokenised = Scoring(tokenize="none", also=ALL)
    found = score(outputs, references, tokenised, "de")
    assert found["bleu_tokenised"].value == found["bleu"].value
    assert found["bleu_tokenised"].signature.startswith("nrefs:1|case:lc|eff:no|tok:none|")


def test_without_a_language_there_is_no_tokenised_bleu() -> None:
    assert "bleu_tokenised" not in score(OUTPUTS, REFERENCES, EVERYTHING, None)


def test_the_language_is_the_end_of_the_target_files_names_unless_it_is_given() -> None:
    def language(target: str, scoring: Scoring = CASED) -> str | None:
        return target_language(ParallelCorpus(source="en", target=target), scoring)

    assert language("de") == language("lc.norm.tok.de") == "de"
    assert language("actions") is None
    assert language("de", Scoring(language="cs")) == "cs"
    assert target_language(CopyCorpus(), CASED) is None
    assert target_language(CopyCorpus(), Scoring(language="cs")) == "cs"


def test_evaluate_has_every_score_unless_the_recipe_says_which() -> None:
    assert Evaluation(every_updates=1).with_all_scores().scoring.also == ALL
    fewer = Evaluation(every_updates=1, scoring=Scoring(also=("ter",)))
    assert fewer.with_all_scores().scoring.also == ("ter",)


@pytest.mark.parametrize(
    ("scoring", "problem"),
    [
        ("{also: [bleu_tokenised]}", "evaluate.scoring.also: bleu_tokenised needs the target's language, which this "
         "corpus does not tell; set evaluate.scoring.language, such as de, or leave it out"),
        ("{language: de, tokenize: none}", "evaluate.scoring: language: de is for text that is still to be tokenised, "
         "and tokenize: none says that it is already; leave one out"),
        ("{language: de, also: [ter]}", "evaluate.scoring: language: de is for bleu_tokenised, which is not in `also`; "
         "add it, or leave this out"),
    ],
)  # fmt: skip
def test_scoring_that_cannot_be_is_refused(scoring: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_job("copy-transformer", [f"evaluate.scoring={scoring}"])
    assert error.value.problems == [f"command line: {problem}"]
