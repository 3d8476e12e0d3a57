"""A trained Transformer in the hands of CTranslate2 and Hugging Face: the same probabilities, the same translations."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import ctranslate2
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from footplate.context import Context
from footplate.job import load_job
from footplate_nlp import export_huggingface
from footplate_nlp.beam import Average, BeamConfig, NoPenalty
from footplate_nlp.export import Trained, write_and_compare
from footplate_nlp.hypothesis import Length
from footplate_nlp.model import build_model
from footplate_nlp.search import GreedyConfig, SearchConfig, search
from footplate_nlp.symbols import BOS, EOS, PAD
from footplate_nlp.transformer import Transformer
from footplate_nlp.translation import Config
from footplate_nlp.translator import Translator
from footplate_nlp.vocabulary import Vocabulary

pytestmark = [
    pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

WORDS = "the quick brown fox jumps over a lazy dog in deep white snow Hunde spielen im Schnee ein Mann geht nach".split()
LINES = [" ".join(WORDS[(3 * row + 7 * column) % len(WORDS)] for column in range(1 + row % 9)) for row in range(40)]
ODD_LINES = ["ﬁne  ½ Öl", "a </s> in <unk> the text", "日本 naïve", "fox!"]


def trained(*overrides: str, ending: float = 6.0) -> Trained:
    """A model of random weights, larger than usual, so that outputs differ, and with a bias towards the end."""
    settings = ["vocabulary.kind=bpe", "vocabulary.size=330", "vocabulary.normaliser=nmt_nfkc", "model.width=32"]
    job = load_job("copy-transformer", [*settings, "model.feed_forward_width=48", *overrides])
    config = job.config
    assert isinstance(config, Config)
    vocabulary = Vocabulary()
    vocabulary.learn(config.vocabulary, lambda: ((line, line.replace("the", "le")) for line in LINES))
    Context(seed=1).seed_torch("initialise")
    model = build_model(config.model, vocabulary.source.size, vocabulary.target.size).eval()
    assert isinstance(model, Transformer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        last = model.layers[-1].feed_forward_residual.norm if config.model.norm == "post" else model.decoder_norm
        for token, logit in ((EOS, ending), (PAD, -9.0), (BOS, -9.0)):  # CTranslate2 normalises anew without those two
            row_D = model.output_matrix[token]
            last.bias.add_(logit * row_D / row_D.square().sum())
    return Trained(config, model, vocabulary, "a test")
