"""ReZero: a Transformer without norms that begins as the identity.

Axes: B sentences, S source positions, T target positions, D width.
"""

import pytest
import torch
from torch import nn

from footplate.optimizers import Adam, AdamW, build_optimizer, decay_groups
from footplate_nlp.batches import Batch
from footplate_nlp.losses import TranslationLoss
from footplate_nlp.symbols import BOS, EOS, PAD
from footplate_nlp.transformer import Transformer, TransformerConfig

BATCH = Batch(
    torch.tensor([[5, 6, 7, 8, EOS], [9, 4, EOS, PAD, PAD]]),
    torch.tensor([[BOS, 5, 9], [BOS, 7, PAD]]),
    torch.tensor([[5, 9, EOS], [7, EOS, PAD]]),
)


def rezero() -> Transformer:
    torch.manual_seed(3)
    config = TransformerConfig(
        encoder_layers=3, decoder_layers=3, width=8, feed_forward_width=12, heads=2, norm="rezero", dropout=0.0
    )
    return Transformer(config, 11, 11)


def test_it_begins_as_the_identity() -> None:
    model = rezero()
    memory = model.encode(BATCH.source_BS)
    assert torch.equal(memory.states_BSD, model.embed(model.target_embedding, BATCH.source_BS))
    hidden_BTD = model.decode(memory, BATCH.input_BT).hidden_BTD
    assert torch.equal(hidden_BTD, model.embed(model.target_embedding, BATCH.input_BT))


def test_there_is_no_norm_and_one_alpha_for_each_sub_layer() -> None:
    model = rezero()
    assert not any(isinstance(part, nn.LayerNorm) for part in model.modules())
    alphas = [parameter for name, parameter in model.named_parameters() if name.endswith(".alpha")]
    assert [alpha.item() for alpha in alphas] == [0.0] * (3 * 2 + 3 * 3)


def test_alphas_do_not_decay() -> None:
    model = rezero()
    decayed, spared = (group["params"] for group in decay_groups(AdamW(), model))
    alphas = {id(parameter) for name, parameter in model.named_parameters() if name.endswith(".alpha")}
    assert alphas <= {id(parameter) for parameter in spared}
    assert not alphas & {id(parameter) for parameter in decayed}


def test_every_parameter_gets_a_gradient_though_most_begin_with_zero() -> None:
    model = rezero()
    TranslationLoss(model, 0.1)(BATCH).total.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # The decoder does not listen to the encoder yet.
        moves = name == "target_embedding.weight" or (name.startswith("decoder") and name.endswith(".alpha"))
        assert bool(parameter.grad.any()) == moves, name


def test_it_learns() -> None:
    model = rezero()
    loss, optimizer = TranslationLoss(model), build_optimizer(Adam(learning_rate=0.01), model)
    totals = []
    for _ in range(60):
        total = loss(BATCH).total
        totals.append(total.item())
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert totals[-1] < 0.05 * totals[0]
    assert all(parameter.item() != 0 for name, parameter in model.named_parameters() if name.endswith(".alpha"))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_other_norms_have_no_alpha(norm: str) -> None:
    model = Transformer(TransformerConfig.model_validate({"norm": norm}), 11, 11)
    assert not [name for name, _ in model.named_parameters() if "alpha" in name]
