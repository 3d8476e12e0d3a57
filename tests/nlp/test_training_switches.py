"""Every training switch with every kind of model: it changes the run, the run resumes exactly, and evaluates as it was.

The moving average of the weights, scheduled sampling, word dropout, copying with coverage.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from footplate.checkpoint import CheckpointStore
from footplate.context import Context
from footplate.job import Precision, load_job
from footplate.step import Step, metric_value
from footplate_nlp import translation
from footplate_nlp.translation import Config

TINY = [
    "corpus.symbols=5",
    "corpus.longest=5",
    "corpus.train_pairs=200",
    "corpus.valid_pairs=20",
    "corpus.test_pairs=10",
    "batch_tokens=200",
    "updates=5",
    "evaluate.every_updates=5",
]
MODELS = {
    "transformer": ["model.width=16", "model.feed_forward_width=16", "model.dropout=0.1"],
    "recurrent": ["model.kind=recurrent", "model.width=16", "model.embedding_width=16", "model.dropout=0.1"],
    "recurrent, fed": [
        "model.kind=recurrent",
        "model.width=16",
        "model.embedding_width=16",
        "model.cell.kind=gru",
        "model.attention.kind=additive",
        "model.attention.input_feeding=true",
        "model.attention.coverage=true",
    ],
    "convolutional": ["model.kind=convolutional", "model.width=12", "model.embedding_width=16", "model.dropout=0.1"],
}
SWITCHES = {
    "scheduled sampling": ["scheduled_sampling.decay.kind=linear", "scheduled_sampling.decay.updates=5"],
    "drawn predictions": [
        "scheduled_sampling.decay.kind=linear",
        "scheduled_sampling.decay.updates=5",
        "scheduled_sampling.prediction=sample",
    ],
    "word dropout": ["word_dropout.source=0.2", "word_dropout.target=0.2"],
    "copying": ["model.copying=true", "coverage_loss=1.0"],
    "moving average": ["ema_decay=0.9"],
}


def config_of(*overrides: str) -> Config:
    config = load_job("copy-transformer", [*TINY, *overrides]).config
    assert isinstance(config, Config)
    return config


def steps(config: Config, context: Context) -> Iterator[Step]:
    return (step for step in translation.train(config, context) if step.state is not None)


def state(step: Step) -> dict[str, torch.Tensor]:
    assert step.state is not None
    modules = {name: part for name, part in step.state.items() if isinstance(part, torch.nn.Module)}
    return {
        f"{name}.{key}": value.clone() for name, part in modules.items() for key, value in part.state_dict().items()
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_changes_the_run_and_the_run_resumes_exactly(switch: str, model: str, tmp_path: Path) -> None:
    config = config_of(*MODELS[model], *SWITCHES[switch])
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in steps(config, Context(folder=tmp_path)):
        if step.update in (3, 5) and step.state is not None:
            store.save(step.update, step.state)
    whole = state(step)
    store.close()
    *_, resumed = steps(config, Context(folder=tmp_path, checkpoint=store.at(3)))
    assert resumed.update == 5
    assert whole.keys() == state(resumed).keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in state(resumed).items())
    *_, evaluated = translation.evaluate(config, Context(checkpoint=store.at(5)))
    seen = {name: value for name, value in step.metrics.items() if name.startswith("eval/")}
    assert {name: evaluated.metrics[name] for name in seen} == seen  # it has others besides

    *_, without = steps(config_of(*MODELS[model]), Context())
    plain = state(without)
    assert whole.keys() != plain.keys() or any(not torch.equal(tensor, whole[name]) for name, tensor in plain.items())


@pytest.mark.parametrize("model", MODELS)
def test_computing_layers_again_changes_no_bit_of_a_run(model: str) -> None:
    everything = [override for switch in SWITCHES.values() for override in switch]
    *_, plain = steps(config_of(*MODELS[model], *everything), Context())
    *_, again = steps(config_of(*MODELS[model], *everything, "model.recompute=true"), Context())
    assert all(torch.equal(tensor, state(again)[name]) for name, tensor in state(plain).items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("model", MODELS)
def test_all_switches_at_once_train_in_half_precision_with_accumulation(model: str, precision: Precision) -> None:
    everything = [override for switch in SWITCHES.values() for override in switch]
    config = config_of(*MODELS[model], *everything, "update.accumulate=2")
    for step in steps(config, Context(precision=precision)):
        loss = metric_value(step.metrics["train/loss"])
        assert loss is not None
        assert 0 < loss < 10
    assert metric_value(step.metrics["train/skipped_updates"]) == 0


def test_the_average_and_the_weights_themselves_are_both_there_to_be_evaluated(tmp_path: Path) -> None:
    config = config_of(*MODELS["transformer"], "ema_decay=0.9")
    store = CheckpointStore(tmp_path / "checkpoints")
    *_, step = steps(config, Context(folder=tmp_path))
    assert step.state is not None
    store.save(5, step.state)
    store.close()
    found = {}
    for decay in (0.9, 0.0):
        asked = config_of(*MODELS["transformer"], f"ema_decay={decay}")
        *_, evaluated = translation.evaluate(asked, Context(checkpoint=store.at(5)))
        found[decay] = evaluated.metrics["eval/loss"]
    assert found[0.9] == step.metrics["eval/loss"] != found[0.0]
