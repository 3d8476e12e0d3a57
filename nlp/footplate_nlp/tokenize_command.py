"""The command `tokenize`: text to pieces and back, with the vocabulary of a run."""

import io
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from footplate.commands import DEFAULT_RUNS, Runs

if TYPE_CHECKING:
    from footplate.job import Job
    from footplate_nlp.translation import Config
    from footplate_nlp.vocabulary import Tokenizer

LINES_AT_ONCE = 512
"""Lines that are read and cut together, at most."""


class Side(StrEnum):
    """Whose vocabulary."""

    source = "source"
    target = "target"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(tokenize)


def tokenize(
    run: Annotated[str, typer.Argument(help="a trained run's name, or the path or URL of its folder")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="changes to its keys")] = None,
    side: Annotated[Side, typer.Option(help="whose vocabulary, where they are two")] = Side.source,
    ids: Annotated[bool, typer.Option("--ids", help="numbers instead of pieces")] = False,
    decode: Annotated[bool, typer.Option("--decode", help="from pieces, or numbers, back to text")] = False,
    sample: Annotated[bool, typer.Option("--sample", help="draw segmentations, as training does")] = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Cut standard input into pieces, separated by blanks, line by line."""
    from footplate.errors import FootplateError
    from footplate_nlp.run_vocabulary import OF_SEARCH, open_vocabulary
    from footplate_nlp.streaming import text_blocks

    if decode and sample:
        raise FootplateError("--sample: there is nothing to draw in --decode; leave one out")
    job, config, vocabulary = open_vocabulary(run, runs, overrides or [], (*OF_SEARCH, "corpus"))
    tokenizer = vocabulary.source if side == Side.source else vocabulary.target
    convert = _decoding(tokenizer, ids) if decode else _encoding(tokenizer, ids, _cut(tokenizer, job, config, sample))
    number = 0
    for lines in text_blocks(cast(io.BufferedIOBase, sys.stdin.buffer), LINES_AT_ONCE, "standard input"):
        for line in convert(range(number + 1, number + len(lines) + 1), lines):
            sys.stdout.buffer.write(f"{line}\n".encode())  # UTF-8 whatever the terminal's locale is
        sys.stdout.flush()
        number += len(lines)


_Cut = Callable[[Sequence[int], Sequence[str]], list[list[int]]]
_Convert = Callable[[Sequence[int], Sequence[str]], list[str]]


def _cut(tokenizer: "Tokenizer", job: "Job", config: "Config", sample: bool) -> _Cut:
    from footplate.errors import FootplateError
    from footplate.streams import numpy_stream
    from footplate_nlp.segmentation import draw_for

    if not sample:
        return lambda _, lines: tokenizer.encode(lines)
    if not config.vocabulary.sampled:
        raise FootplateError(
            "--sample: this run draws no segmentations (vocabulary.bpe_dropout or sampling_alpha); leave it out"
        )
    draw = draw_for(config.vocabulary, tokenizer)

    def drawn(numbers: Sequence[int], lines: Sequence[str]) -> list[list[int]]:
        """Line by line: how many lines come at once depends on who writes them."""
        streams = (numpy_stream(job.seed, "tokenize", number) for number in numbers)
        return [draw([line], stream)[0].tolist() for line, stream in zip(lines, streams, strict=True)]

    return drawn


def _encoding(tokenizer: "Tokenizer", ids: bool, cut: _Cut) -> _Convert:
    pieces = tokenizer.pieces()
    return lambda numbers, lines: [
        " ".join(str(index) if ids else pieces[index] for index in sentence) for sentence in cut(numbers, lines)
    ]


def _decoding(tokenizer: "Tokenizer", ids: bool) -> _Convert:
    from footplate.errors import FootplateError

    known = {str(index) if ids else piece: index for index, piece in enumerate(tokenizer.pieces())}
    what = "id" if ids else "piece"

    def decoded(numbers: Sequence[int], lines: Sequence[str]) -> list[str]:
        sentences = []
        for number, line in zip(numbers, lines, strict=True):
            pieces = [piece for piece in line.split(" ") if piece]
            for piece in pieces:
                if piece not in known:
                    raise FootplateError(
                        f"standard input:{number}: {piece[:40]!r} is no {what} of this vocabulary; "
                        f"give what `footplate tokenize{' --ids' if ids else ''}` writes"
                    )
            sentences.append([known[piece] for piece in pieces])
        return tokenizer.decode(sentences)

    return decoded
