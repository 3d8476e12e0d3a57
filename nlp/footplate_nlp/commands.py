"""The command `translate`."""

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from footplate.commands import DEFAULT_RUNS, Runs

if TYPE_CHECKING:
    from footplate.folder import RunFolder
    from footplate.job import Job
    from footplate_nlp.translation import Config
    from footplate_nlp.translator import Translator

_OF_EVALUATIONS = ("report", "corpus", *(f"evaluate.{key}" for key in ("split", "sentences", "samples", "scoring")))
"""Keys that `evaluate` heeds and `translate` does not."""

LINES_AT_ONCE = 512
"""Lines that are read, sorted by length and translated together, unless the input stalls."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(translate)


def translate(
    run: Annotated[str, typer.Argument(help="a trained run's name, or the path or URL of its folder")],
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
    stop: Annotated[
        str | None, typer.Option(help="when a beam is done: optimal, k_finished, ...; see docs/search.md")
    ] = None,
    minimum_length: Annotated[int | None, typer.Option(help="at least so many tokens")] = None,
    no_repeat_ngram: Annotated[int | None, typer.Option(help="write no so many tokens in a row twice")] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="take written tokens' probabilities to this power")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="begin each translation with this text")] = None,
    prefixes: Annotated[
        bool, typer.Option("--prefixes", help="each line is source, tab, what its translation begins with")
    ] = False,
    ensemble: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN[@UPDATE]", help="decode together with this checkpoint; @UPDATE is of the same run"),
    ] = None,
    attention: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="draw where the model looked: a PNG for each line")
    ] = None,
    average: Annotated[int | None, typer.Option(min=1, help="the mean of so many of the last checkpoints")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="best, last, or the number of an update; best, but last with --average")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; the run's own if not given")] = None,
) -> None:
    """Translate standard input to standard output, line by line; without --beam or --sample, as the run evaluates."""
    from footplate.errors import FootplateError
    from footplate.evaluation import choose_checkpoint
    from footplate.execution import local_context, process_settings
    from footplate.folder import open_run
    from footplate_nlp.search_flags import SearchFlags, load_with_flags
    from footplate_nlp.translator import open_translator

    if prefix is not None and prefixes:
        raise FootplateError("--prefix: is for all lines, and with --prefixes each has its own; leave one out")
    flags = SearchFlags(
        beam=beam,
        length_penalty=length_penalty,
        stop=stop,
        n_best=n_best,
        sample=sample,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        minimum_length=minimum_length,
        no_repeat_ngram=no_repeat_ngram,
        repetition_penalty=repetition_penalty,
    )
    settings: dict[str, object] = {"average": average, "device": device}
    settings["evaluate.prefix"] = None if prefix is None else json.dumps(prefix, ensure_ascii=False)
    settings["ensemble"] = json.dumps(ensemble, ensure_ascii=False) if ensemble else None
    folder = open_run(run, runs)
    given = [f"{key}={value}" for key, value in settings.items() if value is not None]
    job, config = load_with_flags(flags, [*given, *(overrides or [])], lambda changed: _load(folder, changed))
    if prefixes and config.evaluate.prefix:
        raise FootplateError("evaluate.prefix: is for all lines, and with --prefixes each has its own; leave one out")
    with process_settings(job):
        which = checkpoint if checkpoint is not None else "best" if config.average == 1 else "last"
        context = local_context(job, folder.path, choose_checkpoint(folder, which, job))
        _translate_all(open_translator(config, context, tag), config.evaluate.prefix, prefixes, n_best, attention)


def _translate_all(
    translator: "Translator", prefix: str, prefixes: bool, n_best: int, attention: Path | None = None
) -> None:
    """Standard input to standard output, block by block; counts on standard error where only that is a terminal."""
    from rich.console import Console

    from footplate_nlp.attention_picture import draw_attention
    from footplate_nlp.streaming import LineCounter, text_blocks

    counted = sys.stderr.isatty() and not sys.stdin.isatty() and not sys.stdout.isatty()
    number = 0
    with LineCounter(Console(stderr=True), counted) as counter:
        for lines in text_blocks(cast(io.BufferedIOBase, sys.stdin.buffer), LINES_AT_ONCE, "standard input"):
            sources, beginnings = _separated(lines) if prefixes else (lines, [prefix] * len(lines))
            for found in translator(sources, beginnings):
                number += 1
                if found[0].parts > 1:
                    without = "" if attention is None else ", without a picture"
                    print(f"line {number}: too long, translated in {found[0].parts} parts{without}", file=sys.stderr)
                if any(each.truncated for each in found[:n_best]):
                    print(
                        f"line {number}: an output reached its maximum length and was ended there; "
                        "raise evaluate.search.length",
                        file=sys.stderr,
                    )
                if attention is not None and found[0].parts == 1:
                    draw_attention(translator.look(found[0]), attention / f"{number}.png")
                for each in found[:n_best]:  # the recipe may keep more
                    line = each.text if n_best == 1 else f"{number}\t{each.score:.4f}\t{each.text}"
                    sys.stdout.buffer.write(f"{line}\n".encode())  # UTF-8 whatever the terminal's locale is
            sys.stdout.flush()
            counter.add(len(lines))


def _load(folder: "RunFolder", overrides: list[str]) -> "tuple[Job, Config]":
    """A run's job, changed, and its configuration; another task is refused before changes that it cannot know."""
    from footplate.errors import FootplateError
    from footplate.evaluation import load_for_evaluation
    from footplate.job import read_job
    from footplate_nlp.translation import Config

    job = read_job(folder.job)
    if isinstance(job.config, Config):
        job = load_for_evaluation(folder, overrides, _OF_EVALUATIONS)
    if not isinstance(job.config, Config):
        raise FootplateError(f"translate: a run of the task {job.task} translates nothing; name a run of translation")
    return job, job.config


def _separated(lines: list[str]) -> tuple[list[str], list[str]]:
    """The lines up to their first tab, and what comes after it: the prefix of the translation."""
    halves = [line.partition("\t") for line in lines]
    return [source for source, _, _ in halves], [prefix for _, _, prefix in halves]
