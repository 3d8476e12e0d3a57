"""The Transformer beside a naive one, blind to padding and to the future, and tied for good.

Axes: B sentences, S source positions, T target positions, D width, E width of a head, V vocabulary.
"""

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from footplate.errors import ConfigError
from footplate_nlp.model import Seq2Seq, build_model
from footplate_nlp.symbols import BOS, EOS, PAD
from footplate_nlp.transformer import Transformer, TransformerConfig

Layer = Callable[[list[Tensor]], list[Tensor]]
SMALL: dict[str, object] = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "width": 12,
    "feed_forward_width": 20,
    "heads": 3,
    "dropout": 0.0,
}
SOURCE_BS = torch.tensor([[5, 6, 7, 8, EOS], [9, 4, EOS, PAD, PAD]])
INPUT_BT = torch.tensor([[BOS, 5, 9, 4], [BOS, 7, PAD, PAD]])


def small(vocabulary: int = 11, **changes: object) -> Transformer:
    torch.manual_seed(3)
    model = build_model(TransformerConfig.model_validate(SMALL | changes), vocabulary, vocabulary)
    assert isinstance(model, Transformer)
    for parameter in model.parameters():  # biases, alphas and norms start at 0 and 1, which would hide mistakes
        if parameter.ndim <= 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
    return model.double()


class Naive:
    """The same function of the same weights, for one sentence, one position and one head at a time."""

    def __init__(self, weights: Mapping[str, Tensor], norm: str, activation: str) -> None:
        self.weights, self.pre, self.rezero = weights, norm == "pre", norm == "rezero"
        self.relu = activation == "relu"

    def linear(self, name: str, x: Tensor, part: int = 0, parts: int = 1) -> Tensor:
        rows = len(self.weights[f"{name}.weight"]) // parts
        chosen = slice(part * rows, (part + 1) * rows)
        return self.weights[f"{name}.weight"][chosen] @ x + self.weights[f"{name}.bias"][chosen]

    def norm(self, name: str, x: Tensor) -> Tensor:
        variance = ((x - x.mean()) ** 2).mean()
        return (x - x.mean()) / (variance + 1e-5).sqrt() * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def residual(self, name: str, xs: list[Tensor], layer: Layer) -> list[Tensor]:
        if self.pre:
            added = layer([self.norm(f"{name}.norm", x) for x in xs])
            return [x + y for x, y in zip(xs, added, strict=True)]
        if self.rezero:
            return [x + self.weights[f"{name}.alpha"] * y for x, y in zip(xs, layer(xs), strict=True)]
        return [self.norm(f"{name}.norm", x + y) for x, y in zip(xs, layer(xs), strict=True)]

    def attention(self, name: str, states: list[Tensor] | None, causal: bool, xs: list[Tensor]) -> list[Tensor]:
        crossing = f"{name}.key_value.weight" in self.weights
        out = []
        for t, x in enumerate(xs):
            seen = (states or xs)[: t + 1 if causal else None]
            if crossing:
                query = self.linear(f"{name}.query", x)
                keys = [self.linear(f"{name}.key_value", s, 0, 2) for s in seen]
                values = [self.linear(f"{name}.key_value", s, 1, 2) for s in seen]
            else:
                query = self.linear(f"{name}.query_key_value", x, 0, 3)
                keys = [self.linear(f"{name}.query_key_value", s, 1, 3) for s in seen]
                values = [self.linear(f"{name}.query_key_value", s, 2, 3) for s in seen]
            mixed = []
            for head in (slice(0, 4), slice(4, 8), slice(8, 12)):
                powers = [math.exp(float(query[head] @ key[head]) / 2) for key in keys]  # sqrt(4) = 2
                weighted = [p / sum(powers) * value[head] for p, value in zip(powers, values, strict=True)]
                mixed.append(torch.stack(weighted).sum(0))
            out.append(self.linear(f"{name}.output", torch.cat(mixed)))
        return out

    def feed_forward(self, name: str, xs: list[Tensor]) -> list[Tensor]:
        inner = [self.linear(f"{name}.input", x) for x in xs]
        bent = [x.clamp(min=0) if self.relu else x * 0.5 * (1 + torch.erf(x / 2**0.5)) for x in inner]
        return [self.linear(f"{name}.output", x) for x in bent]

    def embed(self, ids: list[int]) -> list[Tensor]:
        out = []
        for t, token in enumerate(ids):
            angles = [t / 10000 ** (2 * i / 12) for i in range(6)]
            position = torch.tensor([f(a) for f in (math.sin, math.cos) for a in angles], dtype=torch.float64)
            out.append(self.weights["target_embedding.weight"][token] * math.sqrt(12) + position)
        return out

    def __call__(self, source: list[int], target: list[int]) -> Tensor:
        states = self.embed(source)
        for name in ("encoder.0", "encoder.1"):
            attention = partial(self.attention, f"{name}.attention", None, False)
            states = self.residual(f"{name}.attention_residual", states, attention)
            feed_forward = partial(self.feed_forward, f"{name}.feed_forward")
            states = self.residual(f"{name}.feed_forward_residual", states, feed_forward)
        if self.pre:
            states = [self.norm("encoder_norm", x) for x in states]
        xs = self.embed(target)
        for name in ("decoder.0", "decoder.1"):
            to_self = partial(self.attention, f"{name}.self_attention", None, True)
            xs = self.residual(f"{name}.self_residual", xs, to_self)
            to_source = partial(self.attention, f"{name}.cross_attention", states, False)
            xs = self.residual(f"{name}.cross_residual", xs, to_source)
            feed_forward = partial(self.feed_forward, f"{name}.feed_forward")
            xs = self.residual(f"{name}.feed_forward_residual", xs, feed_forward)
        if self.pre:
            xs = [self.norm("decoder_norm", x) for x in xs]
        return torch.stack([self.weights["target_embedding.weight"] @ x for x in xs])


@pytest.mark.parametrize("norm", ["pre", "post", "rezero"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_it_computes_what_plain_loops_compute(norm: str, activation: str) -> None:
    model = small(norm=norm, activation=activation)
    naive = Naive(model.state_dict(), norm, activation)
    with torch.no_grad():
        logits_BTV = model.forced(model.encode(SOURCE_BS), INPUT_BT)
    torch.testing.assert_close(logits_BTV[0], naive([5, 6, 7, 8, EOS], [BOS, 5, 9, 4]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(logits_BTV[1, :2], naive([9, 4, EOS], [BOS, 7]), rtol=1e-10, atol=1e-10)


def summed_loss(model: Seq2Seq, source_BS: Tensor, input_BT: Tensor) -> Tensor:
    target_BT = F.pad(input_BT[:, 1:], (0, 1), value=PAD)
    logits_BTV = model.forced(model.encode(source_BS), input_BT)
    return F.cross_entropy(logits_BTV.flatten(0, 1), target_BT.flatten(), ignore_index=PAD, reduction="sum")


@pytest.mark.parametrize("tie", ["none", "target", "all"])
def test_more_padding_changes_neither_loss_nor_gradients(tie: str) -> None:
    model = small(tie=tie)
    loss = summed_loss(model, SOURCE_BS, INPUT_BT)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    wider = summed_loss(model, F.pad(SOURCE_BS, (0, 4), value=PAD), F.pad(INPUT_BT, (0, 3), value=PAD))
    wider_gradients = torch.autograd.grad(wider, list(model.parameters()))
    torch.testing.assert_close(wider, loss)
    torch.testing.assert_close(wider_gradients, gradients)


def test_a_position_does_not_see_those_after_it() -> None:
    model = small()
    memory = model.encode(SOURCE_BS)
    changed_BT = INPUT_BT.clone()
    changed_BT[:, 2:] = 10
    before_BTV, after_BTV = model.forced(memory, INPUT_BT), model.forced(memory, changed_BT)
    assert torch.equal(before_BTV[:, :2], after_BTV[:, :2])
    assert not torch.equal(before_BTV[0, 2:], after_BTV[0, 2:])


@pytest.mark.parametrize("attention_dropout", [0.0, 1e-9])  # with the fused attention and without it
def test_an_empty_source_is_a_number_and_leaves_its_neighbours_alone(attention_dropout: float) -> None:
    model = small(attention_dropout=attention_dropout)
    with_empty_BS = torch.cat([SOURCE_BS, torch.zeros_like(SOURCE_BS[:1])])
    input_BT = torch.cat([INPUT_BT, INPUT_BT[:1]])
    loss = summed_loss(model, with_empty_BS, input_BT)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(bool(gradient.isfinite().all()) for gradient in (loss, *gradients))
    logits_BTV = model.forced(model.encode(with_empty_BS), input_BT)
    torch.testing.assert_close(logits_BTV[:2], model.forced(model.encode(SOURCE_BS), INPUT_BT))
    with torch.no_grad():
        stepped_BV = model.begin(with_empty_BS, 1).step(input_BT[:, 0])
    torch.testing.assert_close(stepped_BV, logits_BTV[:, 0])


@pytest.mark.parametrize("norm", ["pre", "post", "rezero"])
def test_step_by_step_with_the_cache_equals_all_at_once(norm: str) -> None:
    model = small(norm=norm)
    input_BT = torch.randint(4, 11, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        memory = model.encode(SOURCE_BS)
        decoding = model.start(memory, 1)
        stepped_BTV = torch.stack([decoding.step(input_BT[:, t]) for t in range(40)], 1)
        torch.testing.assert_close(stepped_BTV, model.forced(memory, input_BT), rtol=1e-10, atol=1e-10)


def test_a_selection_moves_whole_histories_and_drops_sentences(
    follow_beam: Callable[[Seq2Seq, Tensor, int], None],
) -> None:
    follow_beam(small(), SOURCE_BS, 40)  # the cache grows on the way


def test_the_source_is_cached_once_a_sentence_however_wide_the_beam() -> None:
    model = small()
    memory = model.encode(SOURCE_BS)
    sizes = [model.start(memory, beam).source_L2BHSE.numel() for beam in (1, 7)]
    assert sizes == [2 * 2 * 2 * 5 * 12] * 2  # layers, keys and values, sentences, positions, width


@pytest.mark.parametrize(("tie", "matrices"), [("none", 3), ("target", 2), ("all", 1)])
def test_tied_embeddings_are_one_parameter(tie: str, matrices: int) -> None:
    model, untied = small(tie=tie), small(tie="none")
    shapes = [tuple(parameter.shape) for parameter in model.parameters()]
    assert shapes.count((11, 12)) == matrices
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in model.parameters()) == (
        (3 - matrices) * 11 * 12
    )
    assert len(model.state_dict()) == len(shapes)


@pytest.mark.parametrize("tie", ["target", "all"])
def test_a_tie_survives_copy_load_and_move(tie: str) -> None:
    model = small(tie=tie)
    other = small(tie=tie)
    torch.nn.init.normal_(other.target_embedding.weight)
    other.load_state_dict(model.state_dict())
    for each in (model, other, copy.deepcopy(model), small(tie=tie).to(torch.float32).to("cpu").double()):
        with torch.no_grad():
            each.target_embedding.weight[7] += 1.0
        hidden_D = torch.ones(12, dtype=torch.float64)
        assert torch.allclose(each.project(hidden_D)[7], each.target_embedding.weight[7].sum())
        if tie == "all":
            with_7, with_8 = (each.encode(torch.tensor([[token]])).states_BSD for token in (7, 8))
            with torch.no_grad():
                each.target_embedding.weight[8] = each.target_embedding.weight[7]
            assert not torch.allclose(with_7, with_8)
            assert torch.allclose(with_7, each.encode(torch.tensor([[8]])).states_BSD)


def test_embeddings_start_at_the_inverse_root_of_the_width_and_pad_at_zero() -> None:
    torch.manual_seed(1)
    model = Transformer(TransformerConfig(tie="none"), 4000, 4000)
    for embedding in (model.source_embedding, model.target_embedding, model.output):
        assert embedding is not None
        assert torch.count_nonzero(embedding.weight[PAD]) == 0
        assert embedding.weight[1:].std().item() == pytest.approx(128**-0.5, rel=0.01)


def test_only_the_input_is_scaled() -> None:
    model = small()
    position_D = model.embed(model.target_embedding, torch.tensor([[PAD]]))[0, 0]
    embedded_D = model.embed(model.target_embedding, torch.tensor([[6]]))[0, 0] - position_D
    torch.testing.assert_close(embedded_D, model.target_embedding.weight[6] * 12**0.5)
    torch.testing.assert_close(model.project(torch.eye(12).double()), model.target_embedding.weight.T)


def test_dropout_acts_in_training_and_never_in_evaluation() -> None:
    model = small(dropout=0.3, attention_dropout=0.2, activation_dropout=0.1)
    memory = model.eval().encode(SOURCE_BS)
    assert torch.equal(model.encode(SOURCE_BS).states_BSD, memory.states_BSD)
    model.train()
    torch.manual_seed(1)
    first = model.encode(SOURCE_BS).states_BSD
    assert not torch.equal(model.encode(SOURCE_BS).states_BSD, first)
    torch.manual_seed(1)
    assert torch.equal(model.encode(SOURCE_BS).states_BSD, first)


def test_attention_that_can_drop_out_is_the_same_attention() -> None:
    model = small(attention_dropout=1e-9)  # so rare that it rounds to never
    with torch.no_grad():
        trained = model.train().forced(model.encode(SOURCE_BS), INPUT_BT)
        evaluated = model.eval().forced(model.encode(SOURCE_BS), INPUT_BT)
    torch.testing.assert_close(trained, evaluated, rtol=1e-10, atol=1e-10)


def test_positions_go_on_beyond_any_table() -> None:
    model = small()
    embedded_BTD = model.embed(model.target_embedding, torch.full((1, 300), PAD))
    assert embedded_BTD[0, 299, 1].item() == pytest.approx(math.sin(299 / 10000 ** (2 / 12)))
    later_BTD = model.embed(model.target_embedding, torch.full((1, 1), PAD), first=299)
    assert torch.equal(later_BTD[0, 0], embedded_BTD[0, 299])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 10, "heads": 4}, "width 10 is not divisible by heads 4; change one of them"),
        ({"width": 9, "heads": 3}, "width 9 is odd, but positions are pairs of sine and cosine; make it even"),
    ],
)
def test_widths_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerConfig.model_validate(changes)


def test_tying_all_needs_one_vocabulary() -> None:
    with pytest.raises(ConfigError) as refused:
        build_model(TransformerConfig(tie="all"), 10, 12)
    assert str(refused.value) == (
        "model: tie: `all` needs one vocabulary, but the source has 10 tokens and the target 12; "
        "use a joint vocabulary, or `target`"
    )


@pytest.mark.parametrize("tie", ["none", "target"])
def test_vocabularies_of_two_sizes_are_fine_otherwise(tie: Literal["none", "target"]) -> None:
    model = build_model(TransformerConfig(tie=tie), 10, 12)
    assert model.forced(model.encode(SOURCE_BS), INPUT_BT).shape == (2, 4, 12)
