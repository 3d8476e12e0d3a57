"""Search: from source ids to target ids, with any model that decodes step by step.

A sentence's output does not depend on its neighbours in the batch. In fp32 another batch shape changes the last bits of
a matrix product, so two rivals closer than those may change places; in fp64 in practice nothing does.

Axes: B sentences, S source positions, K rows of a sentence, N = B K rows, T target positions so far, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from footplate.section import Section
from footplate.streams import numpy_stream
from footplate_nlp.beam import BeamConfig, beam_search
from footplate_nlp.candidates import best_candidates
from footplate_nlp.constraints import Allowed, Constraints
from footplate_nlp.forced_prefix import padded_prefixes
from footplate_nlp.hypothesis import Hypothesis, Length, log_probabilities
from footplate_nlp.sampling import SampleConfig, draw
from footplate_nlp.seq2seq import Decoding, Searchable
from footplate_nlp.symbols import BOS, EOS


class GreedyConfig(Section):
    """The most probable token at each position: a beam of one."""

    kind: Literal["greedy"] = "greedy"
    length: Length = Length()
    """How long the output may be."""
    constraints: Constraints = Constraints()
    """What it must not say twice."""


SearchConfig = Annotated[GreedyConfig | BeamConfig | SampleConfig, Field(discriminator="kind")]

Choose = Callable[[Tensor, int, Tensor], Tensor]
"""(choice_NV of `Allowed`, how many positions came before, which of all rows these N are) -> tokens_N."""


def search(
    model: Searchable,
    source_BS: Tensor,
    config: GreedyConfig | BeamConfig | SampleConfig,
    seed: int = 0,
    keys: Sequence[int] | None = None,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[list[Hypothesis]]:
    """For each sentence of the batch its hypotheses, the best first.

    A model in training mode is put into evaluation mode meanwhile. Samples are a function of seed, the sentence's key
    and the sample's number, not of the batch: give keys where there are several batches (the default is 0, 1, ...).
    An output begins with its sentence's prefix; FootplateError where that does not fit.
    """
    if not len(source_BS):
        return []
    maxima = config.length.maxima(source_BS)
    device = source_BS.device
    keys = range(len(maxima)) if keys is None else keys
    rows = rows_of_a_sentence(config)
    prefix_NP = padded_prefixes(prefixes or [()] * len(maxima), maxima, keys, rows, device)
    allowed = Allowed(config.constraints, config.length.minimum, prefix_NP)
    with evaluating(model), without_gradients(device):
        match config:
            case BeamConfig():
                return beam_search(model.begin(source_BS, rows), maxima, config, allowed, device)
            case GreedyConfig():
                return [[found] for found in walk(model.begin(source_BS, 1), maxima, allowed, greedy, device)]
            case SampleConfig():
                choose = sampler(config, seed, keys, maxima, device)
                maxima = [maximum for maximum in maxima for _ in range(rows)]
                found = walk(model.begin(source_BS, rows), maxima, allowed, choose, device, rows)
                return [
                    sorted(found[row : row + rows], key=lambda hypothesis: -hypothesis.score)
                    for row in range(0, len(found), rows)
                ]


def rows_of_a_sentence(config: GreedyConfig | BeamConfig | SampleConfig) -> int:
    """How many rows the decoder has for each sentence: what a batch's memory is multiplied by."""
    match config:
        case BeamConfig():
            return config.size
        case SampleConfig():
            return config.samples
        case GreedyConfig():
            return 1


@contextmanager
def evaluating(model: Searchable) -> Iterator[None]:
    """No dropout within; the model is left as it was found."""
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module) and training:
        model.eval()
    try:
        yield
    finally:
        if isinstance(model, nn.Module) and training:
            model.train()


def without_gradients(device: torch.device) -> AbstractContextManager[None]:
    """Inference mode; under autocast no more than `no_grad`: enter it within that.

    Autocast keeps a weight's cast while it lasts, but in inference mode it casts every weight again at every step: of a
    small model that is half of all calls.
    """
    return torch.no_grad() if torch.is_autocast_enabled(device.type) else torch.inference_mode()


def greedy(choice_NV: Tensor, position: int, rows_N: Tensor) -> Tensor:
    """The most probable token of each row."""
    return best_candidates(choice_NV, choice_NV.new_zeros(len(choice_NV), 1), 1).tokens_BC[:, 0]


def sampler(config: SampleConfig, seed: int, keys: Sequence[int], maxima: list[int], device: torch.device) -> Choose:
    """Draws tokens, each row with the numbers of its own stream: one for each position, needed or not."""
    sentences = zip(keys, maxima, strict=True)
    rows = [(key, number, maximum) for key, maximum in sentences for number in range(config.samples)]
    uniform_NT = np.zeros((len(rows), max(maxima)))
    for row, (key, number, maximum) in enumerate(rows):
        uniform_NT[row, :maximum] = numpy_stream(seed, "sample", key, number).random(maximum)
    exact = torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    uniform_TN = torch.from_numpy(uniform_NT.T.copy()).to(device, exact)

    def choose(choice_NV: Tensor, position: int, rows_N: Tensor) -> Tensor:
        return draw(choice_NV, uniform_TN[position, rows_N], config)

    return choose


def walk(
    decoding: Decoding, maxima: list[int], allowed: Allowed, choose: Choose, device: torch.device, beam: int = 1
) -> list[Hypothesis]:
    """One hypothesis for each row, built from its chosen tokens; a sentence leaves when all its `beam` rows have ended.

    `maxima` are those of the rows.
    """
    found: list[Hypothesis | None] = [None] * len(maxima)
    open_rows = list(range(len(maxima)))
    rows_N = torch.arange(len(maxima), device=device)
    maxima_N = torch.tensor(maxima, device=device)
    tokens_N = torch.full_like(rows_N, BOS)
    history_NT = tokens_N.new_empty(len(maxima), 0)
    total_N = torch.zeros(0)
    for position in count():
        log_probabilities_NV = log_probabilities(decoding.step(tokens_N), position + 1)
        if position == 0:
            total_N = log_probabilities_NV.new_zeros(len(maxima))
        end_N = log_probabilities_NV[:, EOS].clone()
        tokens_N = choose(allowed(log_probabilities_NV, history_NT), position, rows_N)
        chosen_N = log_probabilities_NV.gather(1, tokens_N[:, None])[:, 0]
        ended_N = (tokens_N == EOS) | (maxima_N == position + 1)
        total_N = total_N + torch.where(ended_N, end_N, chosen_N)
        ended = ended_N.nonzero()[:, 0].tolist()
        values, prefixes = total_N[ended_N].tolist(), history_NT[ended_N].tolist()
        would_go_on = (tokens_N[ended_N] != EOS).tolist()
        for n, value, prefix, truncated in zip(ended, values, prefixes, would_go_on, strict=True):
            if found[open_rows[n]] is None:
                found[open_rows[n]] = Hypothesis(tuple(prefix), value, value, truncated)
        history_NT = torch.cat([history_NT, tokens_N[:, None]], 1)
        if not ended:
            continue
        starts = range(0, len(open_rows), beam)
        stay = [start for start in starts if None in [found[row] for row in open_rows[start : start + beam]]]
        if not stay:
            break
        if len(stay) < len(starts):
            stay_N = (torch.tensor(stay, device=device)[:, None] + torch.arange(beam, device=device)).flatten()
            open_rows = [open_rows[n] for n in stay_N.tolist()]
            rows_N, maxima_N, tokens_N = rows_N[stay_N], maxima_N[stay_N], tokens_N[stay_N]
            history_NT, total_N = history_NT[stay_N], total_N[stay_N]
            decoding.select(stay_N, torch.tensor(stay, device=device) // beam)
            allowed.select(stay_N)
    return [hypothesis for hypothesis in found if hypothesis is not None]
