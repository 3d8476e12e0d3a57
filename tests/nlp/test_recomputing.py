"""Layers that are computed again for the gradient: the same gradient, from less memory."""

import pytest
import torch
from torch import Tensor

from footplate_nlp.batches import Batch
from footplate_nlp.convolutional import ConvolutionalConfig
from footplate_nlp.losses import TranslationLoss
from footplate_nlp.model import ModelConfig, Seq2Seq, build_model
from footplate_nlp.recurrent import RecurrentConfig
from footplate_nlp.recurrent_attention import Additive, Multiplicative
from footplate_nlp.symbols import BOS, EOS, PAD
from footplate_nlp.transformer import TransformerConfig

TRANSFORMER = TransformerConfig(width=16, feed_forward_width=32, heads=2, encoder_layers=2, decoder_layers=2)
CONVOLUTIONAL = ConvolutionalConfig(width=12, embedding_width=16, encoder_layers=2, decoder_layers=2)
RECURRENT = RecurrentConfig(width=16, embedding_width=16, attention=Multiplicative(input_feeding=False))
EVERY_MODEL = [
    pytest.param(TRANSFORMER, id="post"),
    pytest.param(TRANSFORMER.model_copy(update={"norm": "pre", "attention_dropout": 0.1}), id="pre"),
    pytest.param(TRANSFORMER.model_copy(update={"norm": "rezero", "copying": True}), id="rezero-copying"),
    pytest.param(CONVOLUTIONAL, id="convolutional"),
    pytest.param(CONVOLUTIONAL.model_copy(update={"copying": True}), id="convolutional-copying"),
    pytest.param(RECURRENT, id="recurrent"),
    pytest.param(RECURRENT.model_copy(update={"attention": Additive(), "copying": True}), id="recurrent-fed"),
]
BATCH = Batch(
    torch.tensor([[5, 6, 7, 8, EOS], [9, 4, EOS, PAD, PAD]]),
    torch.tensor([[BOS, 5, 9], [BOS, 7, PAD]]),
    torch.tensor([[5, 9, EOS], [7, EOS, PAD]]),
)


def built(config: ModelConfig, recompute: bool) -> Seq2Seq:
    torch.manual_seed(2)
    model = build_model(config.model_copy(update={"recompute": recompute}), 20, 20)
    for name, parameter in model.named_parameters():
        if name.endswith("alpha"):
            torch.nn.init.normal_(parameter)
    return model.train()


def gradients(model: Seq2Seq) -> list[Tensor]:
    torch.manual_seed(7)
    loss = TranslationLoss(model, 0.1, coverage_weight=0.5)
    for _ in range(2):  # the second must find the generators where a plain run would have left them
        model.zero_grad()
        loss(BATCH).total.backward()  # type: ignore[no-untyped-call]
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("config", EVERY_MODEL)
def test_gradients_are_the_same_to_the_last_bit_dropout_and_all(config: ModelConfig) -> None:
    plain, again = gradients(built(config, recompute=False)), gradients(built(config, recompute=True))
    assert len(plain) == len(again) > 20
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def saved_numbers(config: ModelConfig, layers: int, recompute: bool) -> int:
    """How many numbers one forward pass keeps for the gradient, outside of what it will compute again."""
    model = built(config.model_copy(update={"encoder_layers": layers, "decoder_layers": layers}), recompute)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        memory = model.encode(BATCH.source_BS)
        hidden_BTD = model.decode(memory, BATCH.input_BT).hidden_BTD
        assert hidden_BTD.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("config", [TRANSFORMER, CONVOLUTIONAL])
def test_of_each_layer_only_its_input_is_kept(config: TransformerConfig | ConvolutionalConfig) -> None:
    four_more = [
        saved_numbers(config, 5, recompute) - saved_numbers(config, 1, recompute) for recompute in (True, False)
    ]
    inputs = BATCH.source_BS.numel() + BATCH.input_BT.numel()
    assert four_more[0] == 4 * inputs * config.width
    assert four_more[1] > 5 * four_more[0]


@pytest.mark.parametrize("config", [TRANSFORMER, CONVOLUTIONAL])
def test_without_a_gradient_a_layer_is_run_once_and_equally(config: ModelConfig) -> None:
    plain, again = built(config, recompute=False).eval(), built(config, recompute=True).eval()
    with torch.no_grad():
        expected = plain.forced(plain.encode(BATCH.source_BS), BATCH.input_BT)
        assert torch.equal(again.forced(again.encode(BATCH.source_BS), BATCH.input_BT), expected)
