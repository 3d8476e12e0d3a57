"""A Transformer as a folder of CTranslate2, the C++ inference engine.

Its weights go to CTranslate2's own specification of a Transformer, one to one: our fused projections have its order.
Source: the specifications in `ctranslate2.specs` 4.8.
"""

from pathlib import Path

import ctranslate2
from ctranslate2.specs import common_spec, model_spec, transformer_spec
from torch import Tensor, nn

from footplate.errors import FootplateError
from footplate_nlp.export import POSITIONS, Trained, Trial, layer_parameters, write_tokenizers
from footplate_nlp.transformer import Transformer, TransformerConfig, sinusoids

PLACES = {
    "attention.query_key_value": "self_attention.linear_0",
    "attention.output": "self_attention.linear_1",
    "attention_residual.norm": "self_attention.layer_norm",
    "self_attention.query_key_value": "self_attention.linear_0",
    "self_attention.output": "self_attention.linear_1",
    "self_residual.norm": "self_attention.layer_norm",
    "cross_attention.query": "attention.linear_0",
    "cross_attention.key_value": "attention.linear_1",
    "cross_attention.output": "attention.linear_2",
    "cross_residual.norm": "attention.layer_norm",
    "feed_forward.input": "ffn.linear_0",
    "feed_forward.output": "ffn.linear_1",
    "feed_forward_residual.norm": "ffn.layer_norm",
}
"""A layer's parameters: our name, theirs."""

README = """# A translator for CTranslate2

Exported by Footplate from {origin}. In this folder:

```python
import ctranslate2
from sentencepiece import SentencePieceProcessor

translator = ctranslate2.Translator(".")
source, target = SentencePieceProcessor("source.spm"), SentencePieceProcessor("target.spm")
pieces = source.encode(["A line of text."], out_type=str)
{tagging}lengths = {{"min_decoding_length": 0, "max_decoding_length": {longest}}}
found = translator.translate_batch(pieces, beam_size=5, suppress_sequences=[["<pad>"], ["<s>"]], **lengths)
print(*target.decode([each.hypotheses[0] for each in found]), sep="\\n")
```
"""

TAGGING = """pieces = [["<2{tag}>", *each] if each else [] for each in pieces]  # the tag it was trained with
"""


def require_quantization(name: str | None) -> None:
    """Raise FootplateError for a name that CTranslate2 does not know."""
    if name is not None and name not in model_spec.ACCEPTED_MODEL_TYPES:
        known = ", ".join(model_spec.ACCEPTED_MODEL_TYPES)
        raise FootplateError(f"--quantization: {name!r} is none of CTranslate2's; choose one of {known}")


def write(folder: Path, trained: Trained, quantization: str | None = None) -> None:
    """Weights, vocabularies, tokenizers, configuration, and a README that says how to serve them."""
    spec = _specification(trained.shape, trained.model)
    spec.register_source_vocabulary(trained.vocabulary.source.pieces())
    spec.register_target_vocabulary(trained.vocabulary.target.pieces())
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))
    write_tokenizers(folder, trained.vocabulary)
    tagging = "" if trained.tag is None else TAGGING.format(tag=trained.tag)
    text = README.format(origin=trained.origin, tagging=tagging, longest=trained.longest)
    (folder / "README.md").write_text(text, encoding="utf-8")


def difference(folder: Path, trained: Trained, trial: Trial) -> float:
    """The largest difference between a log-probability of the folder and one of the model."""
    source, target = trained.vocabulary.source.pieces(), trained.vocabulary.target.pieces()
    translator = ctranslate2.Translator(str(folder), intra_threads=1)
    scored = translator.score_batch(
        [[source[index] for index in ids] for ids in trial.source],
        [[target[index] for index in ids] for ids in trial.target],
    )
    ours = trial.log_probabilities_BT.tolist()
    pairs = ((a, b) for row, each in zip(ours, scored, strict=True) for a, b in zip(row, each.log_probs, strict=False))
    return float(max(abs(a - b) for a, b in pairs))


def _specification(config: TransformerConfig, model: Transformer) -> transformer_spec.TransformerSpec:
    activations = {"relu": common_spec.Activation.RELU, "gelu": common_spec.Activation.GELU}
    spec = transformer_spec.TransformerSpec.from_config(
        (config.encoder_layers, config.decoder_layers),
        config.heads,
        pre_norm=config.norm == "pre",
        activation=activations[config.activation],
    )
    norm = model.layers[0].self_residual.norm
    assert isinstance(norm, nn.LayerNorm)
    spec.config.layer_norm_epsilon = norm.eps
    spec.config.add_source_eos = True  # else whoever serves must
    for name, tensor in layer_parameters(model, PLACES, "ctranslate2"):
        _set(spec, name, tensor)
    embedding = model.target_embedding.weight.detach()
    # CTranslate2 keeps equal matrices once.
    source = embedding if model.source_embedding is None else model.source_embedding.weight.detach()
    spec.encoder.embeddings[0].weight = source.float().numpy()
    spec.decoder.embeddings.weight = embedding.float().numpy()
    spec.decoder.projection.weight = model.output_matrix.detach().float().numpy()
    for stack in (spec.encoder, spec.decoder):
        # What it would compute by itself spaces the frequencies as tensor2tensor does.
        stack.position_encodings.encodings = sinusoids(
            POSITIONS, config.width, embedding.dtype, embedding.device
        ).numpy()
    return spec


def _set(spec: transformer_spec.TransformerSpec, name: str, tensor: Tensor) -> None:
    """`name` is `encoder.3.<place>.weight` or `encoder_norm.weight`."""
    path, _, leaf = name.rpartition(".")
    stack, _, rest = path.partition(".")
    scope = f"{stack}/layer_{rest.replace('.', '/')}" if rest else f"{stack.removesuffix('_norm')}/layer_norm"
    layer = model_spec.index_spec(spec, scope)
    if isinstance(layer, common_spec.LayerNormSpec):
        leaf = {"weight": "gamma", "bias": "beta"}[leaf]
    setattr(layer, leaf, tensor.numpy())
