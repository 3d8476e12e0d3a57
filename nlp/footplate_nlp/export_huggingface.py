"""A Transformer as a folder of Hugging Face transformers.

Post-norm is their Marian, pre-norm their Pegasus: both have sinusoids as ours, sines before cosines, from position 0,
and scale embeddings by sqrt(D). The tokenizer is Marian's, which runs the sentencepiece models themselves.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    MarianConfig,
    MarianMTModel,
    PegasusConfig,
    PegasusForConditionalGeneration,
)
from transformers.utils import logging

from footplate_nlp.beam import BeamConfig
from footplate_nlp.export import (
    POSITIONS,
    Trained,
    Trial,
    chosen_log_probabilities,
    layer_parameters,
    padded,
    write_tokenizers,
)
from footplate_nlp.symbols import BOS, EOS, PAD
from footplate_nlp.transformer import sinusoids
from footplate_nlp.vocabulary import Vocabulary

PLACES = {
    "attention.query_key_value": "self_attn.q_proj+k_proj+v_proj",
    "attention.output": "self_attn.out_proj",
    "attention_residual.norm": "self_attn_layer_norm",
    "self_attention.query_key_value": "self_attn.q_proj+k_proj+v_proj",
    "self_attention.output": "self_attn.out_proj",
    "self_residual.norm": "self_attn_layer_norm",
    "cross_attention.query": "encoder_attn.q_proj",
    "cross_attention.key_value": "encoder_attn.k_proj+v_proj",
    "cross_attention.output": "encoder_attn.out_proj",
    "cross_residual.norm": "encoder_attn_layer_norm",
    "feed_forward.input": "fc1",
    "feed_forward.output": "fc2",
    "feed_forward_residual.norm": "final_layer_norm",
}
"""A layer's parameters: our name, theirs; `a+b` are the two halves of ours."""

README = """# A translator for Hugging Face transformers

Exported by Footplate from {origin}. In this folder:

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForSeq2SeqLM.from_pretrained(".")
lines = ["A line of text."]
{tagging}batch = tokenizer(lines, padding=True, return_tensors="pt")
found = model.generate(**batch)
print(*tokenizer.batch_decode(found, skip_special_tokens=True), sep="\\n")
```

That sacremoses is recommended may be ignored: the sentencepiece models do all that was done in training.
An empty line is not translated into an empty one: leave it out.
"""

TAGGING = """lines = [">>{tag}<<" + line for line in lines]  # the tag it was trained with
"""


def write(folder: Path, trained: Trained) -> None:
    """Weights, configurations, tokenizer, and a README that says how to serve them."""
    logging.disable_progress_bar()
    model = _architecture(trained)
    model.load_state_dict(_state(trained), assign=True)
    model.tie_weights()
    model.generation_config = _generation(trained)
    model.save_pretrained(folder)
    _write_tokenizer(folder, trained.vocabulary)
    tagging = "" if trained.tag is None else TAGGING.format(tag=trained.tag)
    (folder / "README.md").write_text(README.format(origin=trained.origin, tagging=tagging), encoding="utf-8")


def difference(folder: Path, trained: Trained, trial: Trial) -> float:
    """The largest difference between a log-probability of the folder and one of the model."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    source_BS = padded([[*ids, EOS] for ids in trial.source])
    target_BT = padded([[*ids, EOS] for ids in trial.target])
    input_BT = padded([[BOS, *ids] for ids in trial.target])
    with torch.inference_mode():
        logits_BTV = model(source_BS, attention_mask=source_BS != PAD, decoder_input_ids=input_BT).logits
    theirs_BT = chosen_log_probabilities(logits_BTV, target_BT)
    return float((theirs_BT - trial.log_probabilities_BT).abs().max())


def _architecture(trained: Trained) -> Any:
    """Their model with weights yet to come."""
    config, vocabulary = trained.shape, trained.vocabulary
    settings: dict[str, Any] = {
        "vocab_size": vocabulary.source.size,
        "max_position_embeddings": POSITIONS,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_ffn_dim": config.feed_forward_width,
        "decoder_ffn_dim": config.feed_forward_width,
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.heads,
        "d_model": config.width,
        "activation_function": config.activation,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "scale_embedding": True,
        "tie_word_embeddings": config.tie != "none",
        "decoder_start_token_id": BOS,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "forced_eos_token_id": EOS,
    }
    if config.norm == "pre":
        settings["tie_word_embeddings"] = config.tie == "all"  # it ties all three or none
        return PegasusForConditionalGeneration(PegasusConfig(**settings))
    sides = {
        "decoder_vocab_size": vocabulary.target.size,
        "share_encoder_decoder_embeddings": config.tie == "all",
    }
    return MarianMTModel(MarianConfig(**settings, **sides))


def _state(trained: Trained) -> dict[str, Tensor]:
    model, pre = trained.model, trained.shape.norm == "pre"
    state: dict[str, Tensor] = {}
    for name, tensor in layer_parameters(model, PLACES, "huggingface"):
        path, _, leaf = name.rpartition(".")
        stack, _, rest = path.partition(".")
        if not rest:
            state[f"model.{stack.removesuffix('_norm')}.layer_norm.{leaf}"] = tensor
            continue
        number, _, place = rest.partition(".")
        block, _, linears = place.rpartition(".")
        parts = linears.split("+")
        for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True):
            inside = f"{block}.{part}" if block else part
            state[f"model.{stack}.layers.{number}.{inside}.{leaf}"] = piece
    source, target, output = model.source_embedding, model.target_embedding, model.output_matrix
    state |= {
        "model.encoder.embed_tokens.weight": (source or target).weight,
        "model.decoder.embed_tokens.weight": target.weight,
        "lm_head.weight": output,
        "final_logits_bias": torch.zeros(1, len(output)),
    }
    if pre or trained.shape.tie == "all":
        state["model.shared.weight"] = (source or target).weight
    table_TD = sinusoids(POSITIONS, trained.shape.width, torch.float32, torch.device("cpu"))
    for stack in ("encoder", "decoder"):
        state[f"model.{stack}.embed_positions.weight"] = table_TD
    # Saving leaves out what is there twice, also where loading does not know that it is one.
    return {name: tensor.detach().float().clone() for name, tensor in state.items()}


def _generation(trained: Trained) -> GenerationConfig:
    """What `generate` does unless it is told otherwise: our beam search with its defaults, as far as it goes."""
    beam = BeamConfig()
    return GenerationConfig(
        num_beams=beam.size,
        length_penalty=1.0,
        early_stopping="never",
        max_length=trained.longest + 1,  # it counts the begin of sentence
        suppress_tokens=[PAD, BOS],
        decoder_start_token_id=BOS,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        forced_eos_token_id=EOS,
    )


def _write_tokenizer(folder: Path, vocabulary: Vocabulary) -> None:
    write_tokenizers(folder, vocabulary)
    sides = {"vocab.json": vocabulary.source} | ({} if vocabulary.joint else {"target_vocab.json": vocabulary.target})
    for file, tokenizer in sides.items():
        ids = {piece: index for index, piece in enumerate(tokenizer.pieces())}
        for tag, index in tokenizer.tags().items():
            del ids[f"<2{tag}>"]
            ids[f">>{tag}<<"] = index  # how Marian's tokenizer knows a tag
        (folder / file).write_text(json.dumps(ids, ensure_ascii=False, indent=0), encoding="utf-8")
    settings = {
        "tokenizer_class": "MarianTokenizer",
        "separate_vocabs": not vocabulary.joint,
        "split_special_tokens": True,  # else `</s>` in a text would end it
        "clean_up_tokenization_spaces": False,
        "model_max_length": POSITIONS,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
