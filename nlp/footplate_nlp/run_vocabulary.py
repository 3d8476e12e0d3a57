"""The vocabulary of a run."""

from collections.abc import Sequence
from pathlib import Path

from footplate.errors import FootplateError
from footplate.evaluation import choose_checkpoint, load_for_evaluation
from footplate.execution import local_context
from footplate.folder import open_run
from footplate.job import Job, read_job
from footplate_nlp.translation import Config
from footplate_nlp.vocabulary import Vocabulary

OF_SEARCH = ("evaluate", "report", "average", "ema_decay", "ensemble")
"""Keys of evaluations that change nothing of a vocabulary, nor of text."""


def open_vocabulary(
    run: str, runs: str | Path, overrides: Sequence[str] = (), ignored: Sequence[str] = OF_SEARCH
) -> tuple[Job, Config, Vocabulary]:
    """A run's job, its configuration, and the vocabulary of its last checkpoint. Raises FootplateError."""
    folder = open_run(run, runs)
    job = read_job(folder.job)
    if not isinstance(job.config, Config):
        raise FootplateError(f"{run}: a run of the task {job.task} has no vocabulary; name a run of translation")
    job = load_for_evaluation(folder, overrides, ignored)
    assert isinstance(job.config, Config)
    vocabulary = Vocabulary()
    local_context(job, folder.path, choose_checkpoint(folder, "last", job)).restore(vocabulary=vocabulary)
    return job, job.config, vocabulary
