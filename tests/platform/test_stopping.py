"""When a run may end early."""

import json
import math

from footplate.job import Best, Stop
from footplate.stopping import EarlyStopping

BLEU = Best(metric="eval/bleu")
LOSS = Best(metric="eval/loss", better="lower")


def reasons(best: Best, stop: Stop, values: list[float]) -> list[str | None]:
    stopping = EarlyStopping(best, stop)
    found = []
    for value in values:
        stopping.observe(value)
        found.append(stopping.reason())
    return found


def test_the_first_value_is_the_best_and_only_a_better_one_replaces_it() -> None:
    stopping = EarlyStopping(BLEU, Stop())
    assert stopping.best_value is None
    assert [stopping.observe(value) for value in [3.0, 3.0, 2.0, 4.0]] == [True, False, False, True]
    assert stopping.best_value == 4.0


def test_lower_is_better_where_the_recipe_says_so() -> None:
    stopping = EarlyStopping(LOSS, Stop())
    assert [stopping.observe(value) for value in [3.0, 4.0, 2.0]] == [True, False, True]
    assert stopping.best_value == 2.0


def test_without_a_limit_it_never_stops() -> None:
    assert reasons(BLEU, Stop(), [1.0] * 50) == [None] * 50


def test_patience_ends_after_so_many_evaluations_without_a_better_one() -> None:
    stop = Stop(patience_evaluations=2)
    over = "patience is over: eval/bleu has not improved in 2 evaluations"
    assert reasons(BLEU, stop, [1.0, 0.5, 2.0, 1.0, 2.0]) == [None, None, None, None, over]


def test_patience_of_one_evaluation_says_so() -> None:
    over = "patience is over: eval/loss has not improved in 1 evaluation"
    assert reasons(LOSS, Stop(patience_evaluations=1), [1.0, 1.0]) == [None, over]


def test_a_target_is_reached_from_either_side() -> None:
    reached = "target reached: eval/bleu is 31.25, wanted 31"
    assert reasons(BLEU, Stop(target=31.0), [30.0, 31.25, 29.0]) == [None, reached, reached]
    reached = "target reached: eval/loss is 0.5, wanted 0.5"
    assert reasons(LOSS, Stop(target=0.5), [0.75, 0.5]) == [None, reached]


def test_gains_that_are_too_small_are_kept_as_the_best_and_yet_exhaust_patience() -> None:
    stopping = EarlyStopping(BLEU, Stop(patience_evaluations=2, minimum_improvement=1.0))
    assert [stopping.observe(value) for value in [10.0, 10.25, 10.5]] == [True, True, True]
    assert stopping.best_value == 10.5
    assert stopping.reason() == "patience is over: eval/bleu has not improved by 1 in 2 evaluations"


def test_small_gains_add_up() -> None:
    stop = Stop(patience_evaluations=3, minimum_improvement=1.0)
    assert reasons(BLEU, stop, [10.0, 10.5, 11.0, 11.5, 12.0, 12.5]) == [None] * 6


def test_what_is_not_finite_is_never_an_improvement() -> None:
    stopping = EarlyStopping(LOSS, Stop(patience_evaluations=3))
    assert [stopping.observe(value) for value in [math.nan, -math.inf]] == [False, False]
    assert stopping.best_value is None
    assert stopping.reason() is None
    stopping.observe(math.nan)
    assert stopping.reason() == "patience is over: eval/loss has not improved in 3 evaluations"


def test_a_run_without_a_metric_is_never_stopped() -> None:
    assert EarlyStopping(None, Stop()).reason() is None


def test_it_goes_on_where_it_was_saved() -> None:
    stop = Stop(patience_evaluations=3, minimum_improvement=0.5)
    values = [1.0, 1.25, 2.0, 1.5, 2.25, 2.25]
    expected = reasons(BLEU, stop, values)
    assert expected[-1] is not None
    for kill in range(len(values)):
        before, after = EarlyStopping(BLEU, stop), EarlyStopping(BLEU, stop)
        for value in values[:kill]:
            before.observe(value)
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        for value in values[kill:]:
            after.observe(value)
        assert (after.reason(), after.best_value) == (expected[-1], 2.25)
