"""Where a model looked: a picture of attention, target pieces over source pieces.

Axes: T target positions, S source positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from footplate.errors import FootplateError
from footplate_nlp.seq2seq import Seq2Seq
from footplate_nlp.symbols import BOS, EOS
from footplate_nlp.vocabulary import Vocabulary

CELL_INCHES = 0.28
DOTS_PER_INCH = 110


@dataclass(frozen=True)
class Attention:
    """What was read, what was written, and how much of each look went where: the rows sum to 1."""

    source: list[str]
    target: list[str]
    attention_TS: Tensor


def look(model: Seq2Seq, vocabulary: Vocabulary, source: Sequence[int], target: Sequence[int]) -> Attention:
    """The attention to each piece of the source, its end included, when each target piece and the end were written.

    The target is fed by teacher forcing, which gives what the search saw. Raises FootplateError for a model without
    attention.
    """
    device = next(model.parameters()).device
    with torch.inference_mode():
        memory = model.encode(torch.tensor([[*source, EOS]], device=device))
        decoded = model.decode(memory, torch.tensor([[BOS, *target]], device=device), attention=True)
    if decoded.attention_BTS is None:
        raise FootplateError("--attention: this model looks at nothing, so there is nothing to draw; leave it out")
    source_pieces, target_pieces = vocabulary.source.pieces(), vocabulary.target.pieces()
    return Attention(
        [source_pieces[token] for token in (*source, EOS)],
        [target_pieces[token] for token in (*target, EOS)],
        decoded.attention_BTS[0].float().cpu(),
    )


def draw_attention(found: Attention, output: Path) -> None:
    """Write the PNG: a row for each target piece, dark where it looked. Raises FootplateError where that fails."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = found.attention_TS.shape
    figure = Figure(figsize=(2 + columns * CELL_INCHES, 1.5 + rows * CELL_INCHES), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(found.attention_TS.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(columns), [_plain(piece) for piece in found.source], rotation=90)
    axes.set_yticks(range(rows), [_plain(piece) for piece in found.target])
    axes.xaxis.tick_top()
    figure.colorbar(image, ax=axes, fraction=0.05)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=DOTS_PER_INCH)
    except OSError as error:
        raise FootplateError(f"{output}: cannot be written ({error.strerror}); choose another --attention") from error


def _plain(piece: str) -> str:
    """A label that matplotlib reads as it stands: a dollar sign would begin a formula."""
    return piece.replace("$", r"\$")
