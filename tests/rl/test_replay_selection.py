"""Priorities: the sum tree is a brute-force sum, and rows are drawn as often as their formula says."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footplate_rl.replay.rank import Ranked
from footplate_rl.replay.selection import Proportional, Selection, Uniform
from footplate_rl.replay.sum_tree import SumTree


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 5, 17, 300, 70_000]), st.integers(0, 2**31))
def test_the_tree_finds_what_a_running_sum_finds(size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    tree, numbers = SumTree(size), np.zeros(size)
    for _ in range(4):
        changed = random.integers(size, size=20)
        values = random.integers(0, 5, 20).astype(float)  # whole numbers: both sums are exact
        tree.set(changed, values)
        for index, value in zip(changed, values, strict=True):
            numbers[index] = value
    numbers[random.integers(size)] += 1
    tree.set_all(numbers)
    shares = random.random(50)
    assert tree.total() == numbers.sum()
    assert np.array_equal(tree.find(shares), np.searchsorted(numbers.cumsum(), shares * numbers.sum(), side="right"))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_a_number_that_is_zero_is_never_found_whatever_is_rounded(seed: int) -> None:
    random = np.random.default_rng(seed)
    tree = SumTree(70_000)
    changed = random.integers(70_000, size=30)
    tree.set(changed, 10.0 ** random.integers(-300, 10, 30))
    tree.set(changed[:10], 0.0)
    shares = np.concatenate([random.random(100), [0.0, np.nextafter(1.0, 0.0)]])
    assert (tree.numbers[tree.find(shares)] > 0).all()


def test_a_tree_depends_on_its_numbers_alone_and_not_on_how_they_came_there() -> None:
    random = np.random.default_rng(1)
    changed, built = SumTree(70_000), SumTree(70_000)
    for size in (1, 7, 256, 70_000):
        changed.set(random.integers(70_000, size=size), random.random(size) ** 9)
    built.set_all(changed.numbers)
    shares = random.random(1000)
    assert changed.total() == built.total()
    assert np.array_equal(changed.find(shares), built.find(shares))


def test_of_a_row_that_comes_twice_the_last_error_counts() -> None:
    for selection in (Proportional(8, 1.0, 1e-12, 0.0), Ranked(8, 1.0, 0.0)):
        selection.enter(np.arange(2))
        selection.update(np.array([0, 1, 0]), np.array([1e-300, 1.0, 1e9]))
        assert Counter(selection.draw(8, np.random.default_rng(0)).rows_B.tolist()).most_common(1)[0][0] == 0


ERRORS = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 0.25, 3.0])


def filled(selection: Selection) -> Selection:
    selection.enter(np.arange(9))
    selection.leave(np.array([8]))
    selection.update(np.arange(8), ERRORS)
    return selection


def proportional_formula() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    powers = (ERRORS + 0.1) ** 0.6
    return np.asarray(0.9 * powers / powers.sum() + 0.1 / 8)


def rank_formula() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    ranks = 1 + np.argsort(np.argsort(-ERRORS))
    masses = (ranks + 0.5) ** 0.3 - (ranks - 0.5) ** 0.3
    return np.asarray(0.9 * masses / masses.sum() + 0.1 / 8)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Uniform(9), np.full(8, 1 / 8)),
        (Proportional(9, 0.6, 0.1, 0.1), proportional_formula()),
        (Ranked(9, 0.7, 0.1), rank_formula()),
    ],
    ids=["uniform", "proportional", "rank"],
)
def test_rows_are_drawn_as_often_as_their_formula_says(
    selection: Selection, expected: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> None:
    filled(selection)
    if isinstance(selection, Ranked):
        selection._changes = 10**9
        selection._count_changes(0)
    random, draws = np.random.default_rng(1), 2000
    counts = np.zeros(8)
    for _ in range(draws):
        rows, probabilities = selection.draw(16, random)
        assert probabilities == pytest.approx(expected[rows])
        np.add.at(counts, rows, 1)
    deviations = (counts - 16 * draws * expected) / np.sqrt(16 * draws * expected)
    assert np.abs(deviations).max() < 4


def test_the_integral_is_close_to_the_sum_that_it_stands_for() -> None:
    ranks = np.arange(1, 10_001)
    for alpha in (0.0, 0.5, 0.7, 1.0):
        ranked = Ranked(10_000, alpha, 0.0)
        masses = ranked._integral(ranks + 0.5) - ranked._integral(ranks - 0.5)
        assert masses == pytest.approx(ranks**-alpha, rel=0.1)
        assert masses[1:] == pytest.approx(ranks[1:] ** -alpha, rel=0.025)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_the_heap_stays_a_heap_and_is_in_order_once_sorted(seed: int) -> None:
    random = np.random.default_rng(seed)
    ranked, present = Ranked(40, 0.7, 0.0), {0: 1.0}
    ranked.enter(np.array([0]))
    for _ in range(60):
        row = int(random.integers(40))
        if row not in present:
            ranked.enter(np.array([row]))
            present[row] = max(ranked._highest, 1.0)
        elif len(present) > 1 and random.random() < 0.3:
            ranked.leave(np.array([row]))
            del present[row]
        else:
            present[row] = float(random.random() * 5)
            ranked.update(np.array([row]), np.array([present[row]]))
    order = [present[row] for row in ranked._heap_R[: ranked.count]]
    assert sorted(ranked._heap_R[: ranked.count]) == sorted(present)
    assert all(order[(place - 1) // 2] >= order[place] for place in range(1, len(order)))
    ranked._count_changes(40)
    order = [present[row] for row in ranked._heap_R[: ranked.count]]
    assert order == sorted(order, reverse=True)


@pytest.mark.parametrize("kind", [lambda: Proportional(9, 0.6, 0.1, 0.0), lambda: Ranked(9, 0.7, 0.0)])
def test_new_rows_have_the_highest_priority_there_ever_was(kind: "type[Proportional]") -> None:
    selection = filled(kind())  # type: ignore[call-arg]
    selection.update(np.array([5]), np.array([0.0]))  # the row of the highest error, 8, has none any more
    selection.enter(np.array([8]))
    rows, probabilities = selection.draw(64, np.random.default_rng(0))
    assert probabilities[rows == 8][0] == probabilities.max()
