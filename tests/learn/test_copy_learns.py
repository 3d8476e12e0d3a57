"""The toy that any correct translator masters: letters copied, and letters reversed. `make learn` takes three seeds."""

from collections.abc import Mapping

import pytest

from footplate.execution import run
from footplate.job import load_job
from footplate.step import Metric

pytestmark = [pytest.mark.learn, pytest.mark.slow]


def final_metrics(*overrides: str) -> Mapping[str, Metric]:
    *_, last = run(load_job("copy-transformer", ["device=cpu", *overrides]))
    return last.metrics


def test_copying_is_learned_to_at_least_98_percent_exact() -> None:
    assert final_metrics()["eval/exact_match"] >= 98  # type: ignore[operator]


def test_reversing_is_learned_to_at_least_98_percent_exact() -> None:
    assert final_metrics("corpus.reverse=true", "updates=1000")["eval/exact_match"] >= 98  # type: ignore[operator]


LSTM = "model={kind: recurrent, encoder_layers: 1, decoder_layers: 1, embedding_width: 64, width: 64, dropout: 0.0}"


def test_an_lstm_that_attends_learns_to_reverse_to_at_least_98_percent_exact() -> None:
    settings = LSTM, "model.attention.input_feeding=false", "corpus.reverse=true", "evaluate.every_updates=400"
    assert final_metrics(*settings)["eval/exact_match"] >= 98  # type: ignore[operator]
