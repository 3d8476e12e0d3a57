"""Writing a trained Transformer into a folder that another program serves.

A folder appears whole or not at all: it is written beside its place, read back by the program that is to serve it,
compared with the model, and only then renamed.

Axes: B sentences, S source positions, T target positions, V target vocabulary.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from footplate.errors import FootplateError
from footplate_nlp.symbols import BOS, EOS, PAD
from footplate_nlp.transformer import Transformer, TransformerConfig
from footplate_nlp.translation import Config
from footplate_nlp.vocabulary import Vocabulary

PACKAGES = {"ctranslate2": "ctranslate2", "huggingface": "transformers"}
"""The formats, and the package that each needs."""
POSITIONS = 1024
"""Tokens of a side for which the folder has positions: the peers hold them as a table, ours has no end."""
TOLERANCE = 1e-3
"""In nats: a folder of unrounded weights whose log-probabilities are further from the model's is not kept."""


@dataclass(frozen=True)
class Trained:
    """What is exported."""

    config: Config
    model: Transformer
    vocabulary: Vocabulary
    origin: str
    """Which run and checkpoint, in words."""
    tag: str | None = None
    """What stands before every sentence in the lines that the folder's README gives."""

    @property
    def shape(self) -> TransformerConfig:
        """The model's configuration; `require_exportable` has refused the others."""
        assert isinstance(self.config.model, TransformerConfig)
        return self.config.model

    @property
    def longest(self) -> int:
        """How many tokens a translation has at most: as the run evaluates, as far as there are positions."""
        return min(self.config.evaluate.search.length.maximum, POSITIONS)


def require_format(name: str, quantization: str | None) -> None:
    """Raise FootplateError unless there is such a format, its package is installed, and it holds such numbers."""
    if name not in PACKAGES:
        raise FootplateError(f"--to: {name!r} is no format to export to; choose {' or '.join(PACKAGES)}")
    if quantization is not None and name != "ctranslate2":
        raise FootplateError(f"--quantization: is for ctranslate2; leave it out with --to {name}")
    found = find_spec(PACKAGES[name])
    if found is None or found.origin is None:  # a folder of this name in the working directory has no origin
        raise FootplateError(f"--to: {name} needs {PACKAGES[name]}; pip install 'footplate[export]'")
    if quantization is not None:
        from footplate_nlp.export_ctranslate2 import require_quantization

        require_quantization(quantization)


def require_exportable(config: Config, name: str) -> None:
    """Raise FootplateError where the format has no place for what the recipe trains."""
    model = config.model
    if model.kind != "transformer":
        raise FootplateError(f"model.kind: {model.kind} has no place in {name}; only a transformer can be exported")
    if model.norm not in {"pre", "post"}:
        raise FootplateError(f"model.norm: {model.norm} has no place in {name}; only pre and post can be exported")
    if model.copying:
        raise FootplateError(f"model.copying: has no place in {name}; only a transformer without it can be exported")
    if name == "huggingface" and model.norm == "pre" and not config.vocabulary.joint:
        raise FootplateError(
            "model.norm: pre with vocabulary.joint: false has no place in huggingface, whose pre-norm model has one "
            "vocabulary; export --to ctranslate2"
        )


def layer_parameters(model: Transformer, places: Mapping[str, str], name: str) -> Iterator[tuple[str, Tensor]]:
    """Every parameter besides the embeddings, under the name of its place: `encoder.3.<place>.weight`.

    Raises FootplateError for one that has no place: the format would compute something else.
    """
    for parameter, tensor in model.state_dict().items():
        path, _, leaf = parameter.rpartition(".")
        stack, _, rest = path.partition(".")
        if path in {"target_embedding", "source_embedding", "output"}:
            continue
        number, _, inside = rest.partition(".")
        if path in {"encoder_norm", "decoder_norm"}:
            yield f"{path}.{leaf}", tensor.float()
        elif stack in {"encoder", "decoder"} and inside in places and leaf in {"weight", "bias"}:
            yield f"{stack}.{number}.{places[inside]}.{leaf}", tensor.float()
        else:
            raise FootplateError(f"model: its {parameter} has no place in {name}; only a plain transformer has one")


def write_tokenizers(folder: Path, vocabulary: Vocabulary) -> None:
    """`source.spm` and `target.spm`, also where they are the same: who serves needs not ask."""
    (folder / "source.spm").write_bytes(vocabulary.source.model)
    (folder / "target.spm").write_bytes(vocabulary.target.model)


@dataclass(frozen=True)
class Trial:
    """Random sentence pairs of several lengths, and what the model thinks of them."""

    source: list[list[int]]
    """Without the end of sentence."""
    target: list[list[int]]
    log_probabilities_BT: Tensor
    """Of each target token and the end of sentence; 0 beyond it."""


def try_model(model: Transformer, vocabulary: Vocabulary, sentences: int = 8) -> Trial:
    """The same pairs for the same vocabulary."""
    generator = torch.Generator().manual_seed(0)

    def draw(size: int, length: int) -> list[int]:
        return torch.randint(EOS + 1, size, (length,), generator=generator).tolist()

    source = [draw(vocabulary.source.size, 1 + 3 * number) for number in range(sentences)]
    target = [draw(vocabulary.target.size, 2 * (sentences - number)) for number in range(sentences)]
    source_BS, target_BT = padded([[*ids, EOS] for ids in source]), padded([[*ids, EOS] for ids in target])
    input_BT = padded([[BOS, *ids] for ids in target])
    with torch.inference_mode():
        logits_BTV = model.forced(model.encode(source_BS), input_BT)
    return Trial(source, target, chosen_log_probabilities(logits_BTV, target_BT))


def padded(sentences: list[list[int]]) -> Tensor:
    """ids_BT, padded on the right."""
    rows = [torch.tensor(ids) for ids in sentences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def chosen_log_probabilities(logits_BTV: Tensor, target_BT: Tensor) -> Tensor:
    """log p of each target token in fp32, 0 where there is padding."""
    log_probabilities_BTV = logits_BTV.float().log_softmax(-1)
    return log_probabilities_BTV.gather(2, target_BT[..., None])[..., 0].masked_fill(target_BT == PAD, 0.0)


def write_and_compare(folder: Path, trained: Trained, name: str, quantization: str | None) -> float:
    """Write the folder, read it back, and return the largest difference between log-probabilities, in nats.

    Raises FootplateError where it is over `TOLERANCE`, unless the weights were rounded: the format then computes
    something else.
    """
    trial = try_model(trained.model, trained.vocabulary)
    if name == "ctranslate2":
        from footplate_nlp import export_ctranslate2

        export_ctranslate2.write(folder, trained, quantization)
        difference = export_ctranslate2.difference(folder, trained, trial)
    else:
        from footplate_nlp import export_huggingface

        export_huggingface.write(folder, trained)
        difference = export_huggingface.difference(folder, trained, trial)
    if quantization in {None, "float32"} and not difference <= TOLERANCE:
        raise FootplateError(
            f"export: read back by {PACKAGES[name]}, log-probabilities differ from the run's by {difference:.1e}; "
            "the folder was not kept: report it"
        )
    return difference


def require_free(output: Path) -> None:
    """Raise FootplateError where something lies already."""
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        raise FootplateError(f"--output: {output} is there already; remove it, or choose another folder")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder to write into, which is renamed to `output` at the end, or removed if anything goes wrong.

    Raises FootplateError where it cannot be written.
    """
    beside = output.parent / f".{output.name}-{os.getpid()}"
    try:
        beside.mkdir(parents=True)
        yield beside
        beside.rename(output)
    except OSError as error:
        raise FootplateError(
            f"--output: {output} cannot be written ({error.strerror or error}); choose another"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
