"""The command `export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from footplate.commands import DEFAULT_RUNS, Run, Runs

if TYPE_CHECKING:
    from footplate.folder import RunFolder
    from footplate_nlp.export import Trained


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(export)


def export(
    run: Run,
    to: Annotated[str, typer.Option("--to", help="ctranslate2, or huggingface")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="a new folder; export/FORMAT in the run's if none is given")
    ] = None,
    average: Annotated[int | None, typer.Option(min=1, help="the mean of so many of the last checkpoints")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="best, last, or the number of an update; best, but last with --average")
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(help="int8, float16, ...: how CTranslate2 stores the weights; as they are if not given"),
    ] = None,
    tag: Annotated[str | None, typer.Option(help="the tag that the README puts before every sentence")] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Write a trained Transformer for another program to serve: footplate export RUN --to ctranslate2"""
    from footplate.folder import open_run, relative
    from footplate_nlp.export import new_folder, require_format, require_free, write_and_compare

    require_format(to, quantization)
    folder = open_run(run, runs)
    around = folder.path if folder.url is None else Path(folder.name)
    place = (output if output is not None else around / "export" / to).absolute()
    require_free(place)
    trained = _trained(folder, to, average, checkpoint, tag)
    with new_folder(place) as beside:
        difference = write_and_compare(beside, trained, to, quantization)
    print(f"{relative(place)}: {trained.origin}, for {to}; its README.md says how to serve it")
    print(f"log-probabilities of random sentences differ from the run's by at most {difference:.1e}")


def _trained(folder: "RunFolder", to: str, average: int | None, checkpoint: str | None, tag: str | None) -> "Trained":
    """The model of a run, on the CPU. Raises FootplateError where the format has no place for it, or for a tag."""
    from footplate.errors import FootplateError
    from footplate.evaluation import choose_checkpoint, load_for_evaluation
    from footplate.execution import local_context, process_settings
    from footplate.job import read_job
    from footplate_nlp.export import Trained, require_exportable
    from footplate_nlp.transformer import Transformer
    from footplate_nlp.translation import Config, restore_model
    from footplate_nlp.translator import require_tag

    task = read_job(folder.job)
    if not isinstance(task.config, Config):
        raise FootplateError(f"export: a run of the task {task.task} is no translator; name a run of translation")
    job = load_for_evaluation(folder, ["device=cpu"] if average is None else ["device=cpu", f"average={average}"])
    config = job.config
    assert isinstance(config, Config)
    require_exportable(config, to)
    with process_settings(job):
        which = checkpoint if checkpoint is not None else "best" if config.average == 1 else "last"
        context = local_context(job, folder.path, choose_checkpoint(folder, which, job))
        model, vocabulary, update = restore_model(config, context)
    require_tag(tag, vocabulary, config.corpus)
    assert isinstance(model, Transformer)
    mean = f"the mean of {config.average} checkpoints up to" if config.average > 1 else "checkpoint of"
    return Trained(config, model.float(), vocabulary, f"run {folder.name}, {mean} update {update}", tag)
