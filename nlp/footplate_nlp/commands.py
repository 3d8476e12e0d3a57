"""The command `translate`."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from footplate.folder import RunFolder
    from footplate.job import Job
    from footplate_nlp.translation import Config

LINES_AT_ONCE = 512
"""Lines that are read, sorted by length and translated together; from a keyboard, one."""

_RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "length_penalty": (lambda value: 0 <= value < math.inf, "a finite number that is not negative"),
    "temperature": (lambda value: 0 < value < math.inf, "a finite number above 0"),
    "top_p": (lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "top_k": (lambda value: value >= 1, "a whole number above 0"),
}
"""What a flag may be, and how that is said; the recipe's keys have the same ranges, but the user gave no key."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(translate)


def translate(
    run: Annotated[str, typer.Argument(help="a trained run's name, or the path of its folder")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="changes to its keys")] = None,
    beam: Annotated[int | None, typer.Option(min=1, help="beam search with so many hypotheses")] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(help="the beam divides log-probabilities by length to this power"),
    ] = None,
    n_best: Annotated[int, typer.Option(min=1, help="print so many for each line: number, score, text, by tabs")] = 1,
    sample: Annotated[bool, typer.Option("--sample", help="draw tokens at random instead of searching")] = False,
    temperature: Annotated[float | None, typer.Option(help="below 1 samples the probable more often")] = None,
    top_p: Annotated[float | None, typer.Option(help="sample from the smallest set with this probability")] = None,
    top_k: Annotated[int | None, typer.Option(help="sample from so many of the most probable tokens")] = None,
    tag: Annotated[str | None, typer.Option(help="the tag that the run was trained with, such as a language")] = None,
    average: Annotated[int | None, typer.Option(min=1, help="the mean of so many of the last checkpoints")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="best, last, or the number of an update; best, but last with --average")
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="the folder that holds the runs")] = Path("runs"),
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; the run's own if not given")] = None,
) -> None:
    """Translate standard input to standard output, line by line; without --beam or --sample, as the run evaluates."""
    from footplate.evaluation import choose_checkpoint
    from footplate.execution import local_context, process_settings
    from footplate.folder import open_run
    from footplate_nlp.translator import open_translator

    search = _search(beam, length_penalty, n_best, {"temperature": temperature, "top_p": top_p, "top_k": top_k}, sample)
    settings = search | {"average": average, "device": device}
    folder = open_run(run, runs)
    given = [f"{key}={value}" for key, value in settings.items() if value is not None]
    job, config = _load(folder, [*given, *(overrides or [])])
    with process_settings(job):
        which = checkpoint if checkpoint is not None else "best" if config.average == 1 else "last"
        context = local_context(job, folder.path, choose_checkpoint(folder, which, job))
        translator = open_translator(config, context, tag)
        number = 0
        for lines in _blocks(sys.stdin.buffer, 1 if sys.stdin.isatty() else LINES_AT_ONCE):
            for found in translator(lines):
                number += 1
                if found[0].parts > 1:
                    print(f"line {number}: too long, translated in {found[0].parts} parts", file=sys.stderr)
                for each in found[:n_best]:  # the recipe may keep more
                    line = each.text if n_best == 1 else f"{number}\t{each.score:.4f}\t{each.text}"
                    sys.stdout.buffer.write(f"{line}\n".encode())  # UTF-8 whatever the terminal's locale is
            sys.stdout.flush()


def _load(folder: "RunFolder", overrides: list[str]) -> "tuple[Job, Config]":
    """A run's job, changed, and its configuration; another task is refused before changes that it cannot know."""
    from footplate.errors import FootplateError
    from footplate.evaluation import load_for_evaluation
    from footplate.job import read_job
    from footplate_nlp.translation import Config

    job = read_job(folder.job)
    if isinstance(job.config, Config):
        job = load_for_evaluation(folder, overrides)
    if not isinstance(job.config, Config):
        raise FootplateError(f"translate: a run of the task {job.task} translates nothing; name a run of translation")
    return job, job.config


def _search(
    beam: int | None, length_penalty: float | None, n_best: int, sampling: dict[str, float | None], sample: bool
) -> dict[str, object]:
    """The search as changes to the recipe: what it says about the length of outputs stays."""
    from footplate.errors import FootplateError

    if sample and (beam is not None or length_penalty is not None):
        raise FootplateError("--sample: draws tokens, so there is no --beam and no --length-penalty; leave one out")
    if not sample:
        for name, value in sampling.items():
            if value is not None:
                raise FootplateError(f"--{name.replace('_', '-')}: is for sampling; add --sample, or leave it out")
    for name, value in {**sampling, "length_penalty": length_penalty}.items():
        within, allowed = _RANGES[name]
        if value is not None and not within(value):
            raise FootplateError(f"--{name.replace('_', '-')}: {value:g} is out of range; give {allowed}")
    if beam is not None and n_best > beam:
        raise FootplateError(
            f"--n-best: {n_best} translations are more than a beam of {beam} has; raise --beam to {n_best} or more"
        )
    if n_best > 1 and beam is None and not sample:
        raise FootplateError(f"--n-best: {n_best} translations need a beam; add --beam {n_best} or more, or --sample")
    if sample:
        return {"evaluate.search.kind": "sample", "evaluate.search.samples": n_best} | {
            f"evaluate.search.{name}": value for name, value in sampling.items()
        }
    if length_penalty is not None and beam is None:
        raise FootplateError("--length-penalty: compares the hypotheses of a beam; add --beam")
    search: dict[str, object] = {}
    if beam is not None:
        search = {"evaluate.search.kind": "beam", "evaluate.search.size": beam, "evaluate.search.n_best": n_best}
    if length_penalty is not None:
        search["evaluate.search.length_penalty"] = f"{{kind: average, alpha: {length_penalty}}}"
    return search


def _blocks(file: IO[bytes], lines_at_once: int) -> Iterator[list[str]]:
    from footplate_nlp.corpora import decode_line

    lines = (decode_line(line, f"standard input:{number}") for number, line in enumerate(file, start=1))
    while block := list(islice(lines, lines_at_once)):
        yield block
