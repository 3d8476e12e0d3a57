"""The recurrent model beside plain loops, blind to padding, the same at once and in steps.

Axes: B sentences, S source positions, T target positions, D width, V vocabulary; N rows, I input, H state, G gates.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from footplate.initialisers import Orthogonal, initialise
from footplate_nlp import recurrent_attention
from footplate_nlp.batches import Batch
from footplate_nlp.losses import TranslationLoss
from footplate_nlp.model import Seq2Seq, build_model
from footplate_nlp.recurrent import Recurrent, RecurrentConfig
from footplate_nlp.recurrent_cells import Gru, Lstm, Recurrence, Rnn
from footplate_nlp.symbols import BOS, EOS, PAD

SMALL: dict[str, object] = {"width": 6, "embedding_width": 6, "dropout": 0.0}
SOURCE_BS = torch.tensor([[5, 6, 7, 8, EOS], [9, 4, EOS, PAD, PAD]])
INPUT_BT = torch.tensor([[BOS, 5, 9, 4], [BOS, 7, PAD, PAD]])

NO_ATTENTION = {"kind": "none"}
ADDITIVE = {"kind": "additive", "input_feeding": False}
MULTIPLICATIVE = {"kind": "multiplicative", "input_feeding": False}
PEEPHOLES = {"kind": "lstm", "peepholes": True}

VARIANTS: list[dict[str, object]] = [
    {"cell": {"kind": "rnn"}, "attention": NO_ATTENTION, "bridge": "copy"},
    {"cell": {"kind": "gru"}, "attention": ADDITIVE, "tie": "target"},
    {"cell": {"kind": "lstm"}, "attention": NO_ATTENTION, "bridge": "copy", "bidirectional": False},
    {"cell": {"kind": "lstm"}, "attention": MULTIPLICATIVE, "residual": "residual", "encoder_layers": 3},
    {"cell": {"kind": "lstm"}, "attention": ADDITIVE | {"input_feeding": True}, "residual": "dense"},
    {"cell": {"kind": "gru"}, "attention": MULTIPLICATIVE | {"input_feeding": True, "coverage": True}},
    {"cell": {"kind": "rnn"}, "attention": ADDITIVE | {"coverage": True}, "residual": "dense", "decoder_layers": 3},
    {"cell": PEEPHOLES, "attention": MULTIPLICATIVE, "bridge": "copy"},
    {"cell": PEEPHOLES, "attention": NO_ATTENTION, "reversed_source": True, "bidirectional": False},
    {"attention": ADDITIVE | {"coverage": True, "input_feeding": True}, "copying": True, "tie": "all"},
    {"attention": MULTIPLICATIVE, "copying": True, "reversed_source": True, "bidirectional": False},
    {"attention": NO_ATTENTION, "embedding_width": 4, "width": 10},
]


def small(**changes: object) -> Recurrent:
    torch.manual_seed(3)
    model = build_model(RecurrentConfig.model_validate(SMALL | changes), 11, 11)
    assert isinstance(model, Recurrent)
    for parameter in model.parameters():  # biases and coverage start at 0, which would hide mistakes
        if parameter.ndim == 1 or len(parameter) == 3:
            torch.nn.init.normal_(parameter, mean=0.2, std=0.3)
    return model.double()


class Naive:
    """The same function of the same weights for one sentence, position by position."""

    def __init__(self, weights: Mapping[str, Tensor], config: RecurrentConfig) -> None:
        self.weights, self.config = weights, config
        self.width = config.width

    def cell(self, name: str, x: Tensor, state: list[Tensor], fed: Tensor | None = None) -> list[Tensor]:
        w = {key: self.weights[f"{name}.kernel.{key}_l0"] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        wx = w["weight_ih"] @ x + w["bias_ih"]
        uh = w["weight_hh"] @ state[0] + w["bias_hh"]
        if fed is not None:
            wx = wx + self.weights["decoder.feed.weight"] @ fed
        if self.config.cell.kind == "rnn":
            return [torch.tanh(wx + uh)]
        if self.config.cell.kind == "gru":
            (xr, xz, xn), (hr, hz, hn) = wx.chunk(3), uh.chunk(3)
            r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
            return [(1 - z) * torch.tanh(xn + r * hn) + z * state[0]]
        i, f, g, o = (wx + uh).chunk(4)
        see_i, see_f, see_o = self.weights.get(f"{name}.peepholes_3H", torch.zeros(3, 1))
        c = torch.sigmoid(f + see_f * state[1]) * state[1] + torch.sigmoid(i + see_i * state[1]) * torch.tanh(g)
        return [torch.sigmoid(o + see_o * c) * torch.tanh(c), c]

    def zeros(self, width: int) -> list[Tensor]:
        return [torch.zeros(width, dtype=torch.float64)] * (2 if self.config.cell.kind == "lstm" else 1)

    def join(self, inputs: list[Tensor], output: Tensor) -> Tensor:
        for x in {"none": [], "residual": inputs[-1:], "dense": inputs}[self.config.residual]:
            output = output + x
        return output

    def one_way(self, name: str, xs: list[Tensor], width: int) -> tuple[list[Tensor], list[Tensor]]:
        state, out = self.zeros(width), []
        for x in xs:
            state = self.cell(name, x, state)
            out.append(state[0])
        return out, state

    def encode(self, source: list[int]) -> tuple[list[Tensor], list[list[Tensor]]]:
        name = "target_embedding.weight" if self.config.tie == "all" else "source_embedding.weight"
        if self.config.reversed_source:
            source = source[-2::-1] + source[-1:]
        inputs = [[self.weights[name][token] * self.config.embedding_width**0.5 for token in source]]
        ends = []
        for layer in range(self.config.encoder_layers):
            name = f"encoder.layers.{layer}"
            if self.config.bidirectional:
                out, end = self.one_way(f"{name}.forwards", inputs[-1], self.width // 2)
                back, back_end = self.one_way(f"{name}.backwards", inputs[-1][::-1], self.width // 2)
                out = [torch.cat(both) for both in zip(out, back[::-1], strict=True)]
                end = [torch.cat(both) for both in zip(end, back_end, strict=True)]
            else:
                out, end = self.one_way(f"{name}.forwards", inputs[-1], self.width)
            inputs.append([self.join([xs[s] for xs in inputs], h) for s, h in enumerate(out)])
            ends.append(end)
        states = inputs[-1]
        if self.config.reversed_source:
            states = states[-2::-1] + states[-1:]
        return states, ends

    def bridge(self, ends: list[list[Tensor]]) -> list[list[Tensor]]:
        out = []
        for layer in range(self.config.decoder_layers):
            end = ends[max(0, layer + self.config.encoder_layers - self.config.decoder_layers)]
            if self.config.bridge == "linear":
                name = f"bridge.linears.{layer}"
                mixed = self.weights[f"{name}.weight"] @ end[0] + self.weights[f"{name}.bias"]
                end = [torch.tanh(mixed[: self.width]), mixed[self.width :]][: len(end)]
            out.append(end)
        return out

    def attend(self, query: Tensor, states: list[Tensor], coverage: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        scores = []
        for s, state in enumerate(states):
            key = self.weights["decoder.attention.keys.weight"] @ state
            if "decoder.attention.coverage_D" in self.weights:
                key = key + self.weights["decoder.attention.coverage_D"] * sum(coverage)[s]  # type: ignore[index]
            if self.config.attention.kind == "multiplicative":
                scores.append(query @ key)
            else:
                asked = self.weights["decoder.attention.query.weight"] @ query
                asked = asked + self.weights["decoder.attention.query.bias"]
                scores.append(self.weights["decoder.attention.score_D"] @ torch.tanh(key + asked))
        weights = torch.stack(scores).softmax(0)
        context = torch.stack([p * state for p, state in zip(weights, states, strict=True)]).sum(0)
        both = torch.cat([context, query])
        return torch.tanh(self.weights["decoder.attention.output.weight"] @ both), weights, context

    def __call__(self, source: list[int], target: list[int]) -> Tensor:
        states, ends = self.encode(source)
        layers = self.bridge(ends)
        fed = torch.zeros(self.width, dtype=torch.float64)
        coverage = [torch.zeros(len(states), dtype=torch.float64)]
        out = []
        for token in target:
            inputs = [self.weights["target_embedding.weight"][token] * self.config.embedding_width**0.5]
            for layer in range(self.config.decoder_layers):
                feeding = layer == 0 and "decoder.feed.weight" in self.weights
                name = f"decoder.recurrences.{layer}"
                layers[layer] = self.cell(name, inputs[-1], layers[layer], fed if feeding else None)
                inputs.append(self.join(inputs, layers[layer][0]))
            hidden = inputs[-1]
            if self.config.attention.kind != "none":
                hidden, weights, context = self.attend(hidden, states, coverage)
                fed = hidden
                coverage.append(weights)
            matrix = "target_embedding.weight" if self.config.tie != "none" else "output.weight"
            scores = self.weights[matrix] @ hidden
            if self.config.copying:
                p = self.gate(torch.cat([context, hidden, inputs[0]]))
                copied = torch.zeros_like(scores)
                for s, word in enumerate(source):
                    copied[word] += weights[s]
                scores = (p * scores.softmax(0) + (1 - p) * copied).log()
            out.append(scores)
        return torch.stack(out)

    def gate(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.weights["copying.gate.weight"][0] @ x + self.weights["copying.gate.bias"][0])


def logits_of(model: Recurrent, source_BS: Tensor, input_BT: Tensor, **more: Any) -> Tensor:
    memory = model.encode(source_BS)
    return model.logits(memory, model.decode(memory, input_BT, **more))


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_computes_what_plain_loops_compute(variant: dict[str, object]) -> None:
    model = small(**variant)
    naive = Naive(model.state_dict(), RecurrentConfig.model_validate(SMALL | variant))
    with torch.no_grad():
        logits_BTV = logits_of(model, SOURCE_BS, INPUT_BT)
    torch.testing.assert_close(logits_BTV[0], naive([5, 6, 7, 8, EOS], [BOS, 5, 9, 4]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(logits_BTV[1, :2], naive([9, 4, EOS], [BOS, 7]), rtol=1e-10, atol=1e-10)


def summed_loss(model: Recurrent, source_BS: Tensor, input_BT: Tensor) -> Tensor:
    target_BT = F.pad(input_BT[:, 1:], (0, 1), value=PAD)
    logits_BTV = logits_of(model, source_BS, input_BT)
    return F.cross_entropy(logits_BTV.flatten(0, 1), target_BT.flatten(), ignore_index=PAD, reduction="sum")


@pytest.mark.parametrize("variant", VARIANTS)
def test_more_padding_changes_neither_loss_nor_gradients(variant: dict[str, object]) -> None:
    model = small(**variant)
    loss = summed_loss(model, SOURCE_BS, INPUT_BT)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    wider = summed_loss(model, F.pad(SOURCE_BS, (0, 4), value=PAD), F.pad(INPUT_BT, (0, 3), value=PAD))
    wider_gradients = torch.autograd.grad(wider, list(model.parameters()))
    torch.testing.assert_close(wider, loss)
    torch.testing.assert_close(wider_gradients, gradients)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_empty_source_is_a_number_and_leaves_its_neighbours_alone(variant: dict[str, object]) -> None:
    model = small(**variant)
    with_empty_BS = torch.cat([SOURCE_BS, torch.zeros_like(SOURCE_BS[:1])])
    input_BT = torch.cat([INPUT_BT, INPUT_BT[:1]])
    loss = summed_loss(model, with_empty_BS, input_BT)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(bool(gradient.isfinite().all()) for gradient in (loss, *gradients))
    logits_BTV = logits_of(model, with_empty_BS, input_BT)
    torch.testing.assert_close(logits_BTV[:2], logits_of(model, SOURCE_BS, INPUT_BT))


@pytest.mark.parametrize("variant", VARIANTS)
def test_step_by_step_is_all_at_once_with_beams_and_leaving_sentences(
    variant: dict[str, object], follow_beam: Callable[[Seq2Seq, Tensor, int], None]
) -> None:
    follow_beam(small(**variant).eval(), SOURCE_BS, 6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_fed_with_the_gold_tokens_one_by_one_it_learns_the_same(variant: dict[str, object]) -> None:
    model = small(**variant, dropout=0.4)
    found = []
    for more in ({}, {"choose": lambda position, _: INPUT_BT[:, position]}):
        torch.manual_seed(2)
        logits_BTV = logits_of(model.train(), SOURCE_BS, INPUT_BT, **more)
        found.append((logits_BTV, torch.autograd.grad(logits_BTV.square().sum(), list(model.parameters()))))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_chosen_is_fed_and_chosen_by_the_logits_before_it(variant: dict[str, object]) -> None:
    model = small(**variant)
    seen: list[Tensor] = []
    fed = [INPUT_BT[:, 0]]

    def best(position: int, logits_BV: Tensor) -> Tensor:
        assert position == len(fed)
        assert not logits_BV.requires_grad
        seen.append(logits_BV)
        fed.append(logits_BV.argmax(-1))
        return fed[-1]

    logits_BTV = logits_of(model, SOURCE_BS, INPUT_BT, choose=best)
    torch.testing.assert_close(logits_BTV, logits_of(model, SOURCE_BS, torch.stack(fed, 1)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.stack(seen, 1), logits_BTV[:, :-1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cell", [Rnn(), Gru(), Lstm()])
def test_the_fused_kernel_is_the_loop(cell: Rnn | Gru | Lstm) -> None:
    torch.manual_seed(1)
    layer = Recurrence(cell, 4, 5, "xavier").double()
    x_TNI = torch.randn(6, 3, 4, dtype=torch.float64)
    start = tuple(torch.randn(3, 5, dtype=torch.float64) for _ in range(layer.states))
    length_N = torch.tensor([6, 1, 4])
    h_TNH, end = layer.to_the_end(x_TNI, start, length_N)
    looped = [torch.stack(states) for states in zip(*layer._loop(x_TNI, start), strict=True)]
    torch.testing.assert_close(layer(x_TNI, start), looped[0], rtol=1e-10, atol=1e-10)
    for row, length in enumerate(length_N.tolist()):
        torch.testing.assert_close(h_TNH[:length, row], looped[0][:length, row], rtol=1e-10, atol=1e-10)
        for state_NH, looped_TNH in zip(end, looped, strict=True):
            torch.testing.assert_close(state_NH[row], looped_TNH[length - 1, row], rtol=1e-10, atol=1e-10)


def test_what_recurrent_dropout_drops_is_not_written_and_what_is_remembered_stays() -> None:
    projected_NG, nothing_NH = torch.randn(1, 8), torch.zeros(1, 2)
    lstm = Recurrence(Lstm(recurrent_dropout=0.5), 2, 2, "orthogonal")
    h_NH, c_NH = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, -2.0]])
    _, after_NH = lstm.step(projected_NG, (h_NH, c_NH), nothing_NH)
    torch.testing.assert_close(after_NH, projected_NG[:, 2:4].sigmoid() * c_NH)
    gru = Recurrence(Gru(recurrent_dropout=0.5), 2, 2, "orthogonal")
    projected_NG = torch.tensor([[0.0, 0.0, 100.0, -100.0, 1.0, 1.0]])  # the update gate keeps one, replaces the other
    (after_NH,) = gru.step(projected_NG, (h_NH + 0.5,), nothing_NH)
    torch.testing.assert_close(after_NH, torch.tensor([[0.5, 0.0]]))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_dropout_acts_in_training_and_never_in_evaluation(cell: str) -> None:
    changes = {"cell": {"kind": cell, "recurrent_dropout": 0.4}, "attention": ADDITIVE}
    model, without = small(**changes), small(cell={"kind": cell}, attention=ADDITIVE)
    torch.testing.assert_close(
        logits_of(model.eval(), SOURCE_BS, INPUT_BT), logits_of(without, SOURCE_BS, INPUT_BT), rtol=1e-10, atol=1e-10
    )
    found = []
    for more in ({}, {"choose": lambda position, _: INPUT_BT[:, position]}):
        torch.manual_seed(2)
        found.append(logits_of(model.train(), SOURCE_BS, INPUT_BT, **more))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(found[0], logits_of(model.eval(), SOURCE_BS, INPUT_BT))


def test_dropout_is_on_what_goes_up_and_not_on_what_goes_on() -> None:
    model = small(dropout=0.4, attention=NO_ATTENTION)
    decoder = model.decoder
    state, _ = model.begin_with(model.encode(SOURCE_BS))
    x_NI = torch.randn(2, 6, dtype=torch.float64)
    (kept,) = decoder.draw(1, 2)
    projected_NG = decoder.layers[0].project(x_NI)
    hidden_ND, _, dropped = decoder.step(x_NI, projected_NG, state, None, kept)
    plain_ND, _, plain = decoder.step(x_NI, projected_NG, state, None)
    assert torch.equal(dropped.layers[0][0], plain.layers[0][0])
    assert not torch.equal(dropped.layers[1][0], plain.layers[1][0])
    assert kept.outputs[1] is not None
    torch.testing.assert_close(hidden_ND, dropped.layers[1][0] * kept.outputs[1])
    assert torch.equal(plain_ND, plain.layers[1][0])


def test_a_reversed_source_ends_where_it_ended_and_its_states_keep_their_places() -> None:
    model, plain = (small(reversed_source=on, bidirectional=False) for on in (True, False))
    memory = model.encode(SOURCE_BS)
    turned = plain.encode(torch.tensor([[8, 7, 6, 5, EOS], [4, 9, EOS, PAD, PAD]]))
    torch.testing.assert_close(memory.states_BSD[0], turned.states_BSD[0][[3, 2, 1, 0, 4]])
    torch.testing.assert_close(memory.states_BSD[1, :3], turned.states_BSD[1][[1, 0, 2]])
    torch.testing.assert_close(memory.extra, turned.extra)


def test_the_forget_gate_starts_open_and_recurrent_matrices_orthogonal() -> None:
    layer = Recurrence(Lstm(forget_bias=1.5), 4, 5, "orthogonal")
    assert (layer.input_bias + layer.recurrent_bias).tolist() == [0.0] * 5 + [1.5] * 5 + [0.0] * 10
    for gate_HH in layer.recurrent_matrix.split(5):  # type: ignore[no-untyped-call]
        torch.testing.assert_close(gate_HH @ gate_HH.T, torch.eye(5))
    other_HH = Recurrence(Gru(), 4, 5, "xavier").recurrent_matrix[:5]
    assert not torch.allclose(other_HH @ other_HH.T, torch.eye(5))


def test_the_recipe_s_initialiser_draws_each_gate_and_each_map_and_leaves_the_rest() -> None:
    model, plain = (small(attention=ADDITIVE | {"coverage": True, "input_feeding": True}) for _ in range(2))
    initialise(model, Orthogonal())
    before = plain.state_dict()
    for name, tensor in model.state_dict().items():
        stays = "embedding" in name or name.endswith("_D") or "bias_" in name or name == "output.weight"
        assert torch.equal(tensor, before[name]) == stays, name
        if name == "decoder.feed.weight" or ("bridge" in name and tensor.ndim == 2):
            for block in tensor.chunk(len(tensor) // 6):
                torch.testing.assert_close(block @ block.T, torch.eye(6, dtype=torch.float64))


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant["attention"] != NO_ATTENTION])
def test_attention_looks_at_the_source_alone_in_sums_of_one(variant: dict[str, object]) -> None:
    model = small(**variant)
    attention_BTS = model.decode(model.encode(SOURCE_BS), INPUT_BT, attention=True).attention_BTS
    assert attention_BTS is not None
    torch.testing.assert_close(attention_BTS.sum(-1), torch.ones(2, 4, dtype=torch.float64))
    assert torch.count_nonzero(attention_BTS[1, :, 3:]) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_has_a_gradient_even_of_a_batch_of_nothing(variant: dict[str, object]) -> None:
    model = small(**variant)
    nothing_BT = torch.zeros(1, 1, dtype=torch.long)
    TranslationLoss(model)(Batch(nothing_BT, nothing_BT, nothing_BT)).total.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(
        torch.count_nonzero(parameter.grad) == 0 for parameter in model.parameters() if parameter.grad is not None
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_lower_precision_is_close(variant: dict[str, object]) -> None:
    model = small(**variant).float()
    exact_BTV = logits_of(model, SOURCE_BS, INPUT_BT)
    with torch.autocast("cpu", torch.bfloat16):
        half_BTV = logits_of(model, SOURCE_BS, INPUT_BT)
    torch.testing.assert_close(half_BTV.float(), exact_BTV, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("attention", [NO_ATTENTION, ADDITIVE, MULTIPLICATIVE | {"input_feeding": True}])
def test_it_learns_one_batch_by_heart(attention: dict[str, object]) -> None:
    model: Seq2Seq = small(attention=attention, width=16, embedding_width=16).float()
    loss = TranslationLoss(model)
    batch = Batch(SOURCE_BS, INPUT_BT, torch.tensor([[5, 9, 4, EOS], [7, EOS, PAD, PAD]]))
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(40):
        optimizer.zero_grad()
        terms = loss(batch)
        (terms.total / terms.count).backward()
        optimizer.step()
    assert (terms.total / terms.count).item() < 0.05


@pytest.mark.parametrize("coverage", [False, True])
def test_additive_attention_in_pieces_is_additive_attention(coverage: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(attention=ADDITIVE | {"coverage": coverage})
    found = []
    for numbers in (1 << 22, 1, 2 * SOURCE_BS.numel() * 6):
        monkeypatch.setattr(recurrent_attention, "MIXED_AT_ONCE", numbers)
        loss = summed_loss(model, SOURCE_BS, INPUT_BT)
        found.append((loss, torch.autograd.grad(loss, list(model.parameters()))))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[2], found[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("feeding", [False, True])
def test_the_keys_are_computed_once_for_a_batch(feeding: bool) -> None:
    model = small(attention=ADDITIVE | {"input_feeding": feeding})
    assert model.decoder.attention is not None
    seen: list[torch.nn.Module] = []
    model.decoder.attention.keys.register_forward_hook(lambda module, *_: seen.append(module))
    model.decode(model.encode(SOURCE_BS), INPUT_BT)
    assert len(seen) == 1
