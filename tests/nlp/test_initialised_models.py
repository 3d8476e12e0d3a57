"""The recipe's initialiser inside the models: blocks, what is tied, what is normalised, what is left alone."""

import pytest
import torch
from torch import Tensor, nn

from footplate.context import Context
from footplate.initialisers import Gaussian, Glorot, Orthogonal, initialise
from footplate.job import load_job
from footplate_nlp import translation
from footplate_nlp.attention import Attention, CrossAttention, SelfAttention
from footplate_nlp.convolutional import ConvolutionalConfig
from footplate_nlp.convolutional_layers import Convolution, NormalisedLinear
from footplate_nlp.model import ModelConfig, Seq2Seq, build_model
from footplate_nlp.symbols import PAD
from footplate_nlp.transformer import TransformerConfig

TRANSFORMER = TransformerConfig(width=8, feed_forward_width=8, heads=2, encoder_layers=1, decoder_layers=1)
CONVOLUTIONAL = ConvolutionalConfig(width=8, embedding_width=8, encoder_layers=1, decoder_layers=1)


def built(config: ModelConfig) -> Seq2Seq:
    torch.manual_seed(2)
    return build_model(config, 20, 20)


def orthogonal(block: Tensor) -> bool:
    product = block @ block.T if len(block) <= block.shape[1] else block.T @ block
    return torch.allclose(product, torch.eye(len(product)), atol=1e-5)


def test_queries_keys_and_values_are_drawn_one_by_one() -> None:
    model = built(TRANSFORMER)
    initialise(model, Orthogonal())
    blocks = [
        block for part in model.modules() if isinstance(part, nn.Linear) for block in part.weight.detach().split(8)
    ]
    assert len(blocks) == 2 * (3 + 1) + (1 + 2 + 1) + 2 * 2
    assert all(orthogonal(block) for block in blocks)
    attentions = [part for part in model.modules() if isinstance(part, Attention)]
    assert [type(part) for part in attentions] == [SelfAttention, SelfAttention, CrossAttention]


def test_a_normalised_map_has_the_weight_that_was_drawn_gate_and_gated_one_by_one() -> None:
    model = built(CONVOLUTIONAL.model_copy(update={"encoder_kernel": 1, "decoder_kernel": 1}))
    initialise(model, Orthogonal(gain=0.5, bias=0.1))
    maps = [part for part in model.modules() if isinstance(part, NormalisedLinear)]
    assert len(maps) == 3 + 1 + 1 + 3
    for part in maps:
        weight, bias = part.affine()
        assert all(orthogonal(2 * block.detach()) for block in weight.chunk(2 if isinstance(part, Convolution) else 1))
        assert bias.unique().tolist() == pytest.approx([0.1])


@pytest.mark.parametrize("norm", ["post", "rezero"])
@pytest.mark.parametrize("tie", ["none", "all"])
def test_embeddings_norms_and_alphas_are_as_the_model_made_them(norm: str, tie: str) -> None:
    for config in (TRANSFORMER.model_copy(update={"norm": norm, "tie": tie}), CONVOLUTIONAL):
        model, plain = built(config), built(config).state_dict()
        initialise(model, Gaussian(bias=0.5))
        for name, tensor in model.state_dict().items():
            stays = "embedding" in name or "positions" in name or name == "output.weight"
            stays = stays or ".norm." in name or name.endswith("alpha")
            assert torch.equal(tensor, plain[name]) == stays, name
        assert torch.count_nonzero(model.output_matrix[PAD]) == 0


def first_weights(*overrides: str) -> dict[str, Tensor]:
    config = load_job("copy-transformer", ["updates=1", "evaluate.sentences=1", *overrides]).config
    assert isinstance(config, translation.Config)
    *_, step = translation.train(config.model_copy(update={"updates": 1}), Context(seed=4))
    assert step.state is not None
    return {name: tensor.clone() for name, tensor in step.state["model"].state_dict().items()}


def test_a_recipe_s_initialiser_is_reproducible_from_the_seed() -> None:
    tiny = ["corpus.train_pairs=50", "corpus.valid_pairs=2", "optimizer={kind: sgd, learning_rate: 1e-9}"]
    chosen = first_weights(*tiny, "initialiser={kind: gaussian, standard_deviation: 0.5}")
    again = first_weights(*tiny, "initialiser={kind: gaussian, standard_deviation: 0.5}")
    assert all(torch.equal(tensor, again[name]) for name, tensor in chosen.items())
    assert chosen["encoder.0.feed_forward.input.weight"].std().item() == pytest.approx(0.5, rel=0.05)


def test_the_transformer_s_own_differs_from_glorot_in_the_projections_alone() -> None:
    torch.manual_seed(3)
    model = build_model(TransformerConfig(width=128, encoder_layers=1, decoder_layers=1), 20, 20)
    own = {name: tensor.std().item() for name, tensor in model.state_dict().items() if tensor.ndim == 2}
    initialise(model, Glorot())
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 2 and "embedding" not in name:
            fused = "query" in name or "key" in name
            assert tensor.std().item() == pytest.approx(own[name] * (2**0.5 if fused else 1), rel=0.03), name
