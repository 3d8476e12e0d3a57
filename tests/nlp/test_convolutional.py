"""ConvS2S beside a naive one, blind to padding and to the future, and the same with its cache.

Axes: B sentences, S source positions, T target positions, D width, E width of embeddings, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from footplate.errors import ConfigError
from footplate.optimizers import Sgd, build_optimizer, decay_groups
from footplate_nlp.batches import Batch
from footplate_nlp.convolutional import Convolutional, ConvolutionalConfig
from footplate_nlp.convolutional_layers import Convolution, NormalisedLinear
from footplate_nlp.losses import TranslationLoss
from footplate_nlp.model import build_model
from footplate_nlp.seq2seq import Seq2Seq
from footplate_nlp.symbols import BOS, EOS, PAD

SMALL: dict[str, object] = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "width": 6,
    "embedding_width": 8,
    "encoder_kernel": 5,
    "decoder_kernel": 3,
    "positions": 4,
    "dropout": 0.0,
}
SOURCE_BS = torch.tensor([[5, 6, 7, 8, EOS], [9, 4, EOS, PAD, PAD]])
INPUT_BT = torch.tensor([[BOS, 5, 9, 4, 6], [BOS, 7, PAD, PAD, PAD]])


def small(vocabulary: int = 11, **changes: object) -> Convolutional:
    torch.manual_seed(3)
    model = build_model(ConvolutionalConfig.model_validate(SMALL | changes), vocabulary, vocabulary)
    assert isinstance(model, Convolutional)
    for name, parameter in model.named_parameters():  # where they start they would hide mistakes
        if name.endswith(("bias", "length")):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    return model.double()


class Naive:
    """The same function of the same weights, for one sentence, one position and one number at a time."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights

    def map(self, name: str, x: list[float]) -> list[float]:
        rows = self.weights[f"{name}.direction"].tolist()
        lengths, biases = self.weights[f"{name}.length"].tolist(), self.weights[f"{name}.bias"].tolist()
        out = []
        for row, length, bias in zip(rows, lengths, biases, strict=True):
            norm = math.sqrt(sum(v * v for v in row))
            out.append(bias + length / norm * sum(v * number for v, number in zip(row, x, strict=True)))
        return out

    def embed(self, side: str, ids: list[int]) -> list[list[float]]:
        tokens, positions = self.weights["target_embedding.weight"], self.weights[f"{side}_positions.weight"]
        return [(tokens[token] + positions[min(t, 3)]).tolist() for t, token in enumerate(ids)]

    def gated(self, name: str, xs: list[list[float]], t: int, before: int, after: int) -> list[float]:
        window: list[float] = []
        for place in range(t - before, t + after + 1):
            window += xs[place] if 0 <= place < len(xs) else [0.0] * 6
        mapped = self.map(name, window)
        return [mapped[i] / (1 + math.exp(-mapped[6 + i])) for i in range(6)]

    def __call__(self, source: list[int], target: list[int]) -> tuple[Tensor, list[list[float]]]:
        """logits_TV, and where the last layer looked."""
        embedded = self.embed("source", source)
        xs = [self.map("encoder_input", x) for x in embedded]
        for layer in ("encoder.0", "encoder.1"):
            xs = [halved(x, self.gated(f"{layer}.convolution", xs, t, 2, 2)) for t, x in enumerate(xs)]
        keys = [self.map("encoder_output", x) for x in xs]
        values = [halved(key, e) for key, e in zip(keys, embedded, strict=True)]
        inputs = self.embed("target", target)
        xs = [self.map("decoder_input", x) for x in inputs]
        for layer in ("decoder.0", "decoder.1"):
            made, looked = [], []
            for t, x in enumerate(xs):
                gated = self.gated(f"{layer}.convolution", xs, t, 2, 0)
                query = halved(self.map(f"{layer}.query", gated), inputs[t])
                powers = [math.exp(sum(q * k for q, k in zip(query, key, strict=True))) for key in keys]
                looked.append([power / sum(powers) for power in powers])
                context = [sum(w * v[e] for w, v in zip(looked[-1], values, strict=True)) for e in range(8)]
                scaled = [number * len(source) * math.sqrt(1 / len(source)) for number in context]
                made.append(halved(x, halved(self.map(f"{layer}.context", scaled), gated)))
            xs = made
        hidden = torch.tensor([self.map("decoder_output", x) for x in xs], dtype=torch.float64)
        return hidden @ self.weights["target_embedding.weight"].T, looked


def halved(x: list[float], y: list[float]) -> list[float]:
    return [math.sqrt(0.5) * (a + b) for a, b in zip(x, y, strict=True)]


def test_it_computes_what_plain_loops_compute() -> None:
    model = small()
    naive = Naive(model.state_dict())
    with torch.no_grad():
        memory = model.encode(SOURCE_BS)
        logits_BTV = model.forced(memory, INPUT_BT)
        attention_BTS = model.decode(memory, INPUT_BT, attention=True).attention_BTS
    assert attention_BTS is not None
    for row, source, target in ((0, [5, 6, 7, 8, EOS], [BOS, 5, 9, 4, 6]), (1, [9, 4, EOS], [BOS, 7])):
        logits_TV, looked = naive(source, target)
        torch.testing.assert_close(logits_BTV[row, : len(target)], logits_TV, rtol=1e-10, atol=1e-10)
        expected_TS = torch.tensor(looked, dtype=torch.float64)
        torch.testing.assert_close(attention_BTS[row, : len(target), : len(source)], expected_TS)
    assert torch.count_nonzero(attention_BTS[1, :, 3:]) == 0


def summed_loss(model: Seq2Seq, source_BS: Tensor, input_BT: Tensor) -> Tensor:
    target_BT = F.pad(input_BT[:, 1:], (0, 1), value=PAD)
    return TranslationLoss(model, 0.1)(Batch(source_BS, input_BT, target_BT)).total


@pytest.mark.parametrize("changes", [{"tie": "none"}, {"tie": "target"}, {"tie": "all"}, {"copying": True}])
def test_more_padding_changes_neither_loss_nor_gradients(changes: dict[str, object]) -> None:
    model = small(**changes)
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


def test_an_empty_source_is_a_number_and_leaves_its_neighbours_alone() -> None:
    model = small()
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


@pytest.mark.parametrize("tie", ["none", "target", "all"])
@pytest.mark.parametrize("copying", [False, True])
def test_every_parameter_gets_a_gradient_even_where_nothing_counts(tie: str, copying: bool) -> None:
    model = small(tie=tie, copying=copying)
    summed_loss(model, torch.tensor([[EOS]]), torch.tensor([[PAD]])).backward()  # type: ignore[no-untyped-call]
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("changes", [{}, {"copying": True}, {"decoder_kernel": 1}, {"decoder_kernel": 4}])
def test_a_selection_moves_whole_histories_and_drops_sentences(
    changes: dict[str, object], follow_beam: Callable[[Seq2Seq, Tensor, int], None]
) -> None:
    follow_beam(small(**changes), SOURCE_BS, 12)


def test_the_cache_does_not_grow() -> None:
    model = small()
    decoding = model.begin(SOURCE_BS, 3)
    sizes = set()
    with torch.no_grad():
        for _ in range(5):
            decoding.step(torch.full((6,), 5))
            sizes.add(decoding.past_LNPD.shape)  # type: ignore[attr-defined]
    assert sizes == {(2, 6, 2, 6)}


def test_positions_beyond_the_last_share_its_embedding() -> None:
    model = small()
    embedded_TE = model.embed_target(torch.full((1, 7), PAD))[0]
    torch.testing.assert_close(embedded_TE[:4], model.target_positions.weight)
    assert all(torch.equal(embedded_TE[t], embedded_TE[3]) for t in range(3, 7))
    assert torch.equal(model.embed_target(torch.full((1, 1), PAD), first=99)[0, 0], embedded_TE[3])


@pytest.mark.parametrize("layers", [1, 3])
def test_the_encoder_gets_its_gradient_divided_by_the_attentions(layers: int) -> None:
    model = small(decoder_layers=layers, tie="target", positions=1)
    encoder, embedding = model.encoder[1].convolution.direction, model.source_embedding
    assert embedding is not None
    memory = model.encode(SOURCE_BS)
    (value_BSE,) = memory.extra
    gradients = torch.autograd.grad(value_BSE.sum(), [encoder, embedding.weight])
    with torch.no_grad():  # without the part of the embeddings there are only the layers
        model.encoder_output.length.zero_()
        model.encoder_output.bias.zero_()
    direct = torch.autograd.grad(model.encode(SOURCE_BS).extra[0].sum(), embedding.weight)[0]
    assert direct[5].tolist() == pytest.approx([math.sqrt(0.5)] * 8)
    again = small(decoder_layers=1, tie="target", positions=1)
    again.load_state_dict(small(decoder_layers=layers, tie="target", positions=1).state_dict(), strict=False)
    whole_BSE = again.encode(SOURCE_BS).extra[0]
    assert again.source_embedding is not None
    whole = torch.autograd.grad(
        whole_BSE.sum(), [again.encoder[1].convolution.direction, again.source_embedding.weight]
    )
    torch.testing.assert_close(whole_BSE, value_BSE)
    torch.testing.assert_close(gradients[0] * layers, whole[0])
    torch.testing.assert_close((gradients[1] - direct) * layers, whole[1] - direct)


@pytest.mark.parametrize(("tie", "matrices"), [("none", 3), ("target", 2), ("all", 1)])
def test_tied_embeddings_are_one_parameter(tie: str, matrices: int) -> None:
    model = small(tie=tie)
    shapes = [tuple(parameter.shape) for parameter in model.parameters()]
    assert shapes.count((11, 8)) == matrices
    assert len(model.state_dict()) == len(shapes)


def test_maps_start_with_the_deviation_that_keeps_the_variance() -> None:
    torch.manual_seed(1)
    plain, gated = NormalisedLinear(200, 300, 0.75), Convolution(3, 100, 0.25)
    assert plain.affine().weight.std().item() == pytest.approx(math.sqrt(0.75 / 200), rel=0.02)
    assert gated.affine().weight.std().item() == pytest.approx(math.sqrt(4 * 0.75 / 300), rel=0.02)
    torch.testing.assert_close(plain.affine().weight, plain.direction)


def test_embeddings_start_at_a_tenth_and_pad_at_zero() -> None:
    torch.manual_seed(1)
    model = Convolutional(ConvolutionalConfig(tie="none", dropout=0.2), 4000, 4000)
    assert model.source_embedding is not None
    assert model.output is not None
    for embedding, deviation in (
        (model.source_embedding, 0.1),
        (model.target_embedding, 0.1),
        (model.output, math.sqrt(0.8 / 256)),
    ):
        assert torch.count_nonzero(embedding.weight[PAD]) == 0
        assert embedding.weight[1:].std().item() == pytest.approx(deviation, rel=0.01)


def test_lengths_decay_and_directions_do_not() -> None:
    model = small()
    decayed, spared = (group["params"] for group in decay_groups(Sgd(weight_decay=0.1), model))
    assert {id(p) for name, p in model.named_parameters() if name.endswith(("direction", "bias"))} == {
        id(p) for p in spared
    }
    lengths = {id(p) for name, p in model.named_parameters() if name.endswith("length")}
    assert lengths
    assert lengths <= {id(p) for p in decayed}


def test_decay_makes_the_maps_shorter() -> None:
    layer = NormalisedLinear(3, 4)
    before = layer.affine().weight.detach()
    optimizer = build_optimizer(Sgd(learning_rate=1.0, weight_decay=0.1), layer)
    (layer(torch.ones(1, 3)) * 0).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    torch.testing.assert_close(layer.affine().weight, 0.9 * before)


def test_dropout_acts_in_training_and_never_in_evaluation() -> None:
    model = small(dropout=0.3)
    memory = model.eval().encode(SOURCE_BS)
    assert torch.equal(model.encode(SOURCE_BS).states_BSD, memory.states_BSD)
    model.train()
    torch.manual_seed(1)
    first = model.encode(SOURCE_BS).states_BSD
    assert not torch.equal(model.encode(SOURCE_BS).states_BSD, first)
    torch.manual_seed(1)
    assert torch.equal(model.encode(SOURCE_BS).states_BSD, first)


def test_an_even_kernel_is_refused_in_the_encoder() -> None:
    with pytest.raises(ValueError, match="encoder_kernel 4 is even and has no middle; make it odd"):
        ConvolutionalConfig(encoder_kernel=4)


def test_tying_all_or_copying_needs_one_vocabulary() -> None:
    with pytest.raises(ConfigError) as refused:
        build_model(ConvolutionalConfig(tie="all"), 10, 12)
    assert str(refused.value) == (
        "model: tie: `all` needs one vocabulary, but the source has 10 tokens and the target 12; "
        "use a joint vocabulary, or `target`"
    )
    with pytest.raises(ConfigError) as refused:
        build_model(ConvolutionalConfig(tie="target", copying=True), 10, 12)
    assert str(refused.value) == ("model: copying: needs one vocabulary for both sides; set vocabulary.joint to true")
    model = build_model(ConvolutionalConfig(tie="target"), 10, 12)
    assert model.forced(model.encode(SOURCE_BS), INPUT_BT).shape == (2, 5, 12)
