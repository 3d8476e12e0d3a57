"""Recurrent models that cannot be are refused by name when the recipe is read."""

import pytest

from footplate.errors import ConfigError
from footplate.job import load_job
from footplate_nlp.model import build_model
from footplate_nlp.recurrent import RecurrentConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 7}, "width: 7 is odd, but two directions share it; make it even"),
        (
            {"reversed_source": True},
            "reversed_source: a bidirectional encoder reads both ways already; "
            "set bidirectional to false, or leave this out",
        ),
        (
            {"width": 8, "tie": "target"},
            "tie: target: the output matrix is as wide as the state, "
            "but embedding_width is 6 and width 8; make them equal",
        ),
        (
            {"width": 8, "residual": "dense"},
            "residual: dense: an embedding is added to the first layer's state, "
            "but embedding_width is 6 and width 8; make them equal",
        ),
        (
            {"attention": {"kind": "none"}, "copying": True},
            "copying: it copies where attention looks, but attention.kind is none; "
            "choose another, or leave copying out",
        ),
    ],
)
def test_what_cannot_work_together_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="Value error") as refused:
        RecurrentConfig.model_validate({"width": 6, "embedding_width": 6, **changes})
    assert f"Value error, {message} [" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tie": "all"}, "model: tie: `all` needs one vocabulary, but the source has 10 tokens and the target 12; "
         "use a joint vocabulary, or `target`"),
        ({"copying": True}, "model: copying: needs one vocabulary for both sides; set vocabulary.joint to true"),
    ],
)  # fmt: skip
def test_two_vocabularies_cannot_share(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build_model(RecurrentConfig.model_validate(changes), 10, 12)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "coverage_loss=1",
            "coverage_loss: it is about where attention looks, but model.attention.kind is none; "
            "choose another, or leave this out",
        ),
        (
            "model.cell={kind: gru, peepholes: true}",
            "model.cell.peepholes: kind gru has no such key (lstm would); remove it",
        ),
        (
            "model.cell={kind: rnn, recurrent_dropout: 0.1}",
            "model.cell.recurrent_dropout: kind rnn has no such key (gru, lstm would); remove it",
        ),
        (
            "model.attention.coverage=true",
            "model.attention.coverage: kind none has no such key (additive, multiplicative would); remove it",
        ),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_job("scan-lstm-plain", [override])
    assert str(refused.value) == f"command line: {message}"
