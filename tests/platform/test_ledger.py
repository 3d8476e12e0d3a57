"""Rows are means over what the steps since the row before counted."""

import numpy as np
import pytest
import torch

from footplate.ledger import Ledger
from footplate.step import Latest, Mean, Step


def test_a_row_averages_what_its_steps_counted() -> None:
    ledger = Ledger()
    ledger.add(Step(1, {"train/loss": Mean(torch.tensor(6.0), 2), "train/grad_norm": 1.0}, {"tokens": 2}))
    ledger.add(Step(2, {"train/loss": Mean(torch.tensor(2.0), torch.tensor(6)), "train/grad_norm": 2.0}, {"tokens": 6}))
    row = ledger.row()
    assert (row["update"], row["tokens"], row["train/loss"], row["train/grad_norm"]) == (2, 8, 1.0, 1.5)


def test_a_metric_that_some_steps_lack_is_averaged_over_those_that_have_it() -> None:
    ledger = Ledger()
    ledger.add(Step(1, {"eval/bleu": 20.0}))
    ledger.add(Step(2, {}))
    assert ledger.row()["eval/bleu"] == 20.0
    ledger.add(Step(3, {}))
    assert "eval/bleu" not in ledger.row()


def test_the_mean_over_nothing_is_left_out() -> None:
    ledger = Ledger()
    ledger.add(Step(1, {"rollout/return": Mean(0.0, 0)}))
    assert "rollout/return" not in ledger.row()


def test_work_is_counted_over_the_whole_run_and_rates_over_the_row() -> None:
    ledger = Ledger()
    ledger.add(Step(1, {}, {"frames": 100}))
    ledger.row()
    ledger.add(Step(2, {}, {"frames": 50}))
    before = ledger.seconds
    row = ledger.row()
    assert row["frames"] == 150
    assert row["speed/frames_per_second"] / row["speed/updates_per_second"] == pytest.approx(50)
    assert row["time/seconds"] == before


def test_a_row_interrupted_by_a_kill_is_the_row_that_would_have_been_written() -> None:
    steps = [Step(number, {"train/loss": Mean(torch.tensor(number / 7), 3)}, {"tokens": 3}) for number in range(1, 5)]
    through, before, after = Ledger(), Ledger(), Ledger()
    for step in steps:
        through.add(step)
    for step in steps[:2]:
        before.add(step)
    after.load_state_dict(before.state_dict())
    for step in steps[2:]:
        after.add(step)
    expected, row = through.row(), after.row()
    assert {name: row[name] for name in ("update", "tokens", "train/loss")} == {
        name: expected[name] for name in ("update", "tokens", "train/loss")
    }


def test_numbers_of_numpy_are_saved_as_plain_ones() -> None:
    ledger = Ledger()
    ledger.add(Step(1, work={"points": np.int64(8)}))  # type: ignore[dict-item]
    state = ledger.state_dict()
    assert {type(amount) for amount in [*state["work"].values(), *state["work_at_row"].values()]} == {int}


def test_a_running_count_is_shown_as_it_stands() -> None:
    ledger = Ledger()
    for number, skipped in enumerate([0.0, 1.0, 1.0], start=1):
        ledger.add(Step(number, {"train/skipped_updates": Latest(skipped)}))
    assert ledger.row()["train/skipped_updates"] == 1.0


def test_the_first_update_of_a_process_stays_out_of_the_rates() -> None:
    ledger = Ledger()
    ledger.add(Step(1, {}, {"frames": 100}))
    assert not [name for name in ledger.row() if name.startswith("speed/")]
    ledger.add(Step(2, {}, {"frames": 7}))
    row = ledger.row()
    assert row["frames"] == 107
    assert row["speed/frames_per_second"] / row["speed/updates_per_second"] == pytest.approx(7)
