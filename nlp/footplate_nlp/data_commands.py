"""The commands `data stats`, `data prepare` and `data download`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from footplate.commands import DEFAULT_RUNS, Runs

if TYPE_CHECKING:
    from footplate_nlp.translation import Config

Recipe = Annotated[str, typer.Argument(help="a shipped recipe's name, or a YAML file")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="changes to its keys")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    data = typer.Typer(help="Look at text, tokenise it ahead of training, download it.", rich_markup_mode=None)
    for command in (stats, prepare, download):
        data.command()(command)
    app.add_typer(data, name="data")


def stats(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|RUN", help="a recipe, or a run, whose vocabulary is used")],
    overrides: Overrides = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Print what a corpus is like: footplate data stats multi30k-en-de corpus.folder=PATH"""
    import sys

    from footplate.errors import FootplateError
    from footplate.folder import find_run
    from footplate.recipes import list_recipes
    from footplate.tables import print_table
    from footplate_nlp.corpora import PARTS
    from footplate_nlp.data_statistics import SIDES, measure, rows_of
    from footplate_nlp.run_vocabulary import open_vocabulary
    from footplate_nlp.training_pairs import learn
    from footplate_nlp.vocabulary import Vocabulary

    if recipe not in {shipped.name for shipped in list_recipes()} and find_run(recipe, runs) is not None:
        _, config, vocabulary = open_vocabulary(recipe, runs, overrides or [])
    else:
        config, vocabulary = _translation(recipe, overrides), Vocabulary()
        learn(vocabulary, config.vocabulary, config.corpus)
    train = measure(config.corpus, "train", vocabulary, config.widest)
    rows = [*rows_of("train", train, train, vocabulary)]
    for part in PARTS[1:]:
        try:
            rows += rows_of(part, measure(config.corpus, part, vocabulary, config.widest), train, vocabulary)
        except FootplateError as error:  # a corpus without a test set still has the others
            print(f"{part}: left out: {error}", file=sys.stderr)
    print_table(("", *SIDES), rows)


def prepare(
    recipe: Recipe,
    overrides: Overrides = None,
    to: Annotated[Path | None, typer.Option("--to", help="the new folder; prepared/RECIPE if none is given")] = None,
) -> None:
    """Learn the vocabulary and tokenise ahead of training; `prepared=FOLDER` of `train` then uses both."""
    from footplate_nlp.corpora import text_fingerprint
    from footplate_nlp.training_pairs import prepare as prepare_pairs

    config = _translation(recipe, overrides)
    folder = to if to is not None else Path("prepared", Path(recipe).stem)
    pairs, vocabulary = prepare_pairs(config.corpus, config.vocabulary, text_fingerprint(config.corpus), folder)
    print(
        f"{folder}: {len(pairs):,} pairs, {len(pairs.source.tokens):,} source and {len(pairs.target.tokens):,} target "
        f"tokens, a vocabulary of {vocabulary.source.size:,}"
    )
    print(f"footplate train {shlex.join([recipe, *(overrides or []), f'prepared={folder}'])}")


def download(
    corpus: Annotated[str, typer.Argument(help="multi30k or scan")],
    to: Annotated[Path | None, typer.Option("--to", help="the folder; data/CORPUS if none is given")] = None,
    address: Annotated[str | None, typer.Option("--from", help="the http address of a copy")] = None,
) -> None:
    """Download a corpus, verified: footplate data download multi30k"""
    from footplate.errors import FootplateError
    from footplate_nlp.downloads import CORPORA
    from footplate_nlp.downloads import download as download_files

    if corpus not in CORPORA:
        raise FootplateError(f"data download: there is no {corpus!r}; choose one of {', '.join(CORPORA)}")
    files = CORPORA[corpus]
    if address is not None and not address.startswith(("http://", "https://")):
        raise FootplateError(f"--from: {address!r} is no http:// or https:// address; give one such as {files.url}")
    download_files(files, address or files.url, to if to is not None else Path("data", corpus), print)


def _translation(recipe: str, overrides: list[str] | None) -> "Config":
    """The configuration of a recipe that translates."""
    from footplate.errors import FootplateError
    from footplate.job import load_job
    from footplate_nlp.translation import Config

    job = load_job(recipe, overrides or [])
    if not isinstance(job.config, Config):
        raise FootplateError(f"{recipe}: the task {job.task} reads no text; name a recipe of translation")
    return job.config
