"""Paired bootstrap: whether a difference is more than luck."""

import numpy as np
import pytest

from footplate.streams import numpy_stream
from footplate_nlp.bootstrap import Difference, paired_bootstrap
from footplate_nlp.metrics import Score, Scoring, score, share

WORDS = ["a", "man", "in", "the", "red", "car", "looks", "at", "two", "dogs", "near", "some", "blue", "water"]


def sentences(seed: int, spoilt: float, count: int = 60) -> dict[str, Score]:
    """The scores of outputs in which a share of the words is wrong."""
    stream = numpy_stream(seed, "spoilt")
    references = [" ".join(numpy_stream(0, "reference", number).permutation(WORDS)) for number in range(count)]
    outputs = [" ".join("x" if stream.random() < spoilt else word for word in line.split()) for line in references]
    return score(outputs, references, Scoring())


def compared(these: dict[str, Score], others: dict[str, Score], resamples: int = 200) -> dict[str, Difference]:
    return paired_bootstrap(these, others, resamples, numpy_stream(1, "bootstrap"))


def test_a_clear_difference_is_found_and_is_that_of_the_scores() -> None:
    better, worse = sentences(1, 0.1), sentences(2, 0.3)
    found = compared(better, worse)
    assert set(found) == {"bleu", "chrf", "exact_match", "token_accuracy"}
    for name in ("bleu", "chrf", "token_accuracy"):
        each = found[name]
        assert (each.this, each.other) == (better[name].value, worse[name].value)
        assert 0 < each.low < each.value < each.high
        assert each.p == pytest.approx(2 / 201)


def test_two_of_a_kind_are_not_told_apart() -> None:
    found = compared(sentences(1, 0.2), sentences(2, 0.2))["chrf"]
    assert found.low < 0 < found.high
    assert found.p > 0.05


def test_a_system_does_not_differ_from_itself() -> None:
    system = sentences(1, 0.2)
    for found in compared(system, system).values():
        assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_the_same_stream_gives_the_same_interval_and_another_one_another() -> None:
    these, others = sentences(1, 0.1), sentences(2, 0.2)
    assert compared(these, others) == compared(these, others)
    assert paired_bootstrap(these, others, 200, numpy_stream(2, "bootstrap")) != compared(these, others)


def test_swapping_the_systems_changes_the_signs_and_nothing_else() -> None:
    these, others = sentences(1, 0.15), sentences(2, 0.2)
    there, back = compared(these, others), compared(others, these)
    for name in there:
        assert back[name].value == -there[name].value
        assert (back[name].low, back[name].high) == (-there[name].high, -there[name].low)
        assert back[name].p == there[name].p


def test_interval_and_p_by_hand() -> None:
    # One system is right in the first of two sentences, the other in the second: a resample takes one of them twice
    # (a difference of 100 or -100, each with probability 1/4) or each of them once (0).
    this, other = share([(1, 1), (0, 1)]), share([(0, 1), (1, 1)])
    rows = numpy_stream(1, "bootstrap").integers(2, size=(80, 2))
    differences = sorted(100.0 * (1 - int(first) - int(second)) for first, second in rows)
    found = compared({"exact": this}, {"exact": other}, 80)["exact"]
    assert (found.value, found.low, found.high) == (0, differences[2], differences[77])
    at_most = min(sum(each <= 0 for each in differences), sum(each >= 0 for each in differences))
    assert found.p == min(1, 2 * (1 + at_most) / 81)


def test_losses_of_two_vocabularies_are_not_compared() -> None:
    loss = Score(np.ones((3, 2)), lambda sums: sums[0] / sums[1])
    exact = share([(1, 1)] * 3)
    assert set(compared({"loss": loss, "exact": exact}, {"loss": loss, "exact": exact})) == {"exact"}
