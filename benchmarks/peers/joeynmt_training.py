"""Target tokens a second of JoeyNMT's training, as its own `TrainManager` runs it; a JSON line on stdout.

Reads from a folder `train` and `valid` with suffixes `source` and `target`, pieces between blanks, and `pieces.txt`.
Runs in the environment that `peer.python_of` makes for it, never in ours.
"""

import argparse
import json
import logging
import math
import tempfile
import time
from pathlib import Path

from joeynmt.config import parse_global_args, set_validation_args
from joeynmt.prediction import prepare
from joeynmt.training import TrainManager

SMOOTHING = 0.1
NEVER = 10**9


def transformer():
    """The recipe multi30k-en-de in JoeyNMT's words; its `dropout` is also that of attention and of feed-forward."""
    half = {"type": "transformer", "num_layers": 4, "num_heads": 4, "hidden_size": 128, "ff_size": 256, "dropout": 0.3}
    half |= {"layer_norm": "post", "embeddings": {"embedding_dim": 128, "scale": True, "dropout": 0.3}}
    return half, half


def recurrent(feeding):
    """The recipe multi30k-en-de-lstm in JoeyNMT's words; an encoder's `hidden_size` is that of one direction."""
    half = {"type": "recurrent", "rnn_type": "lstm", "num_layers": 2, "dropout": 0.3}
    half |= {"embeddings": {"embedding_dim": 256, "scale": True, "dropout": 0.3}}
    decoder = {"hidden_size": 256, "hidden_dropout": 0.3, "attention": "luong", "init_hidden": "bridge"}
    return half | {"hidden_size": 128, "bidirectional": True}, half | decoder | {"input_feeding": feeding}


MODELS = {"transformer": transformer, "lstm-fed": lambda: recurrent(True), "lstm": lambda: recurrent(False)}


def configuration(text, work, model, batch_tokens, updates):
    """Everything that JoeyNMT wants to be told."""
    side = {"level": "word", "voc_file": str(text / "pieces.txt")}
    encoder, decoder = MODELS[model]()
    embeddings = {"tied_embeddings": True, "tied_softmax": True}
    width = encoder["embeddings"]["embedding_dim"]
    embeddings |= {"embed_initializer": "normal", "embed_init_weight": width**-0.5}
    return {
        "name": "multi30k-en-de",
        "model_dir": str(work),
        "use_cuda": False,
        "fp16": False,
        "random_seed": 1,
        "data": {
            "train": str(text / "train"),
            "dev": str(text / "valid"),
            "dataset_type": "plain",
            "src": {"lang": "source", **side},
            "trg": {"lang": "target", **side},
        },
        "model": {"initializer": "xavier_uniform", **embeddings, "encoder": encoder, "decoder": decoder},
        "training": {
            "optimizer": "adam",
            "adam_betas": [0.9, 0.98],
            "learning_rate": 0.005,
            "label_smoothing": SMOOTHING,
            "scheduling": "warmupinversesquareroot",
            "learning_rate_warmup": 2000,
            "normalization": "tokens",
            "batch_type": "token",
            "batch_size": batch_tokens,
            "updates": updates,
            "epochs": NEVER,
            "logging_freq": NEVER,
            "validation_freq": NEVER,
        },
        "testing": {},
    }


class Watch:
    """Notes time, target tokens and padded positions after each update, and the loss of the first."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.rows, self.first_loss, self.positions = [], None, 0
        trainer.model.register_forward_hook(self.forward, with_kwargs=True)
        trainer.optimizer.register_step_post_hook(self.step)

    def forward(self, model, inputs, named, outputs):
        sentences, length = named["trg"].shape
        self.positions += sentences * max(length, named["src"].shape[1])
        if self.first_loss is None:
            # Its loss is a divergence: the entropy of the smoothed target is missing.
            wrong = SMOOTHING / (len(model.trg_vocab) - 2)
            entropy = -(1 - SMOOTHING) * math.log(1 - SMOOTHING) - SMOOTHING * math.log(wrong)
            self.first_loss = outputs[0].item() / named["trg_mask"].sum().item() + entropy

    def step(self, optimizer, inputs, named):
        self.rows.append((time.perf_counter(), self.trainer.stats.total_tokens, self.positions))


def main():
    """Train for `warmup + updates` updates and say how fast the later ones were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--model", choices=MODELS, default="transformer")
    parser.add_argument("--batch-tokens", type=int, required=True)
    parser.add_argument("--warmup", type=int, required=True, help="updates that are not timed")
    parser.add_argument("--updates", type=int, required=True)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as work:
        settings = configuration(
            options.text, Path(work), options.model, options.batch_tokens, options.warmup + options.updates
        )
        arguments = parse_global_args(settings, rank=0, mode="train")
        model, train, valid, _ = prepare(arguments, rank=0, mode="train")
        trainer = TrainManager(
            rank=0,
            model=model,
            model_dir=arguments.model_dir,
            device=arguments.device,
            autocast=arguments.autocast,
            seed=arguments.seed,
            train_args=arguments.train,
            dev_args=set_validation_args(arguments.test),
        )
        watch = Watch(trainer)
        trainer.train_and_validate(train, valid)
    (began, tokens_before, positions_before), (ended, tokens, positions) = (
        watch.rows[options.warmup - 1],
        watch.rows[-1],
    )
    found = {
        "rate": (tokens - tokens_before) / (ended - began),
        "tokens_per_update": (tokens - tokens_before) / options.updates,
        "positions_per_update": (positions - positions_before) / options.updates,
        "updates_per_second": options.updates / (ended - began),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "first_loss": watch.first_loss,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
