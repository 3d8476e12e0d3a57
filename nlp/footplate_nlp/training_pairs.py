"""The training pairs of a run: tokenised once into its folder, or prepared beforehand."""

import errno
import fcntl
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from footplate.context import Context
from footplate.errors import FootplateError
from footplate.folder import is_seen
from footplate_nlp.corpora import Corpus, learning_pairs, tags_of
from footplate_nlp.token_files import FORMAT, MANIFEST, find_damage, map_corpus, read_origin, seal, write_corpus
from footplate_nlp.tokenised import Pairs
from footplate_nlp.vocabulary import Vocabulary, VocabularyConfig

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_DRAWN = {"bpe_dropout", "sampling_alpha"}
"""Settings that change how text is cut in training, and not what is learned."""


def open_corpus(
    corpus: Corpus,
    vocabulary: Vocabulary,
    config: VocabularyConfig,
    context: Context,
    fingerprint: str,
    prepared: str | None = None,
) -> Pairs:
    """The training pairs as token ids: from the run folder where they fit, else made there (unnamed without a folder).

    A vocabulary that is not learned or restored yet is learned here. Rank 0 does the work and the others wait; one that
    does not see rank 0's disk does it again for itself. With `prepared` both come from that folder, or it is refused.
    """

    def opened() -> Pairs:
        if prepared is not None:
            return _open_prepared(Path(prepared), vocabulary, config, fingerprint)
        return _open(corpus, vocabulary, config, context.folder, fingerprint)

    pairs: Pairs | None = None
    if context.rank == 0:
        if prepared is None and not vocabulary.learned:
            learn(vocabulary, config, corpus)
        pairs = opened()
    state = context.broadcast(vocabulary.state_dict() if context.rank == 0 else None)  # also keeps the others waiting
    if pairs is None:
        vocabulary.load_state_dict(state)
        pairs = opened()
    return pairs


def learn(vocabulary: Vocabulary, config: VocabularyConfig, corpus: Corpus) -> None:
    """Learn from the training pairs of all that the corpus is made of, tags and all."""
    vocabulary.learn(config, lambda: learning_pairs(corpus), tags_of(corpus))


def _open(
    corpus: Corpus, vocabulary: Vocabulary, config: VocabularyConfig, run_folder: Path | None, fingerprint: str
) -> Pairs:
    text = config.sampled
    if run_folder is None:
        with tempfile.TemporaryDirectory(prefix="footplate-data-") as name:
            write_corpus(Path(name), corpus, vocabulary, text=text)
            return map_corpus(Path(name))
    folder = run_folder / "data"
    origin = {"format": FORMAT, "text": fingerprint, "vocabulary": vocabulary.fingerprint(), "raw": text}
    if not _is_whole(folder, origin, say=False):
        with _explaining(folder, "use --runs on another disk"), _alone(run_folder / ".tokenising.lock"):
            if not _is_whole(folder, origin):  # by now: another rank of this machine may have made it
                with _made(folder) as beside:
                    write_corpus(beside, corpus, vocabulary, text=text)
                    seal(beside, origin)
                    shutil.rmtree(folder, ignore_errors=True)
    return map_corpus(folder)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold the file against all other processes of this machine; wait for the one that does."""
    with file.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError as error:
            # Some disks that machines share know no locks. There the other ranks wait for rank 0, and find its folder.
            if error.errno not in _NO_LOCKS:
                raise
        yield


@contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `folder` at the end; whatever goes wrong, nothing of it is left."""
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield beside
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _is_whole(folder: Path, origin: dict[str, Any], *, say: bool = True) -> bool:
    """Whether the folder was made from this; one that is absent, damaged or outdated is made anew."""
    if read_origin(folder) != origin:
        return False
    damaged = find_damage(folder)
    if damaged is not None and say:
        logging.getLogger("footplate").warning(f"{folder / damaged}: is damaged; the text is tokenised anew")
    return damaged is None


def prepare(corpus: Corpus, config: VocabularyConfig, fingerprint: str, folder: Path) -> tuple[Pairs, Vocabulary]:
    """Learn the vocabulary and tokenise the training pairs into a folder of their own, for `open_corpus`.

    Raises FootplateError where the folder is there already, or cannot be written.
    """
    if is_seen(folder):
        raise FootplateError(f"{folder}: is there already; remove it, or choose another folder with --to")
    vocabulary = Vocabulary()
    with _explaining(folder, "choose another folder with --to"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _made(folder) as beside:
            learn(vocabulary, config, corpus)
            write_corpus(beside, corpus, vocabulary, text=config.sampled)
            for side, model in vocabulary.models().items():
                (beside / f"{side}.model").write_bytes(model)
            seal(beside, {"format": FORMAT, "text": fingerprint, "settings": _settings(config)})
            beside.chmod(0o755)  # mkdtemp's folders are for one user alone
    return map_corpus(folder), vocabulary


def _open_prepared(folder: Path, vocabulary: Vocabulary, config: VocabularyConfig, fingerprint: str) -> Pairs:
    origin = read_origin(folder)
    if origin is None:
        raise FootplateError(f"prepared: {folder} holds no {MANIFEST}; make it with `footplate data prepare`")
    wanted = {"format": FORMAT, "text": fingerprint, "settings": _settings(config)}
    names = {"format": "by another version", "text": "from other text", "settings": "with other vocabulary settings"}
    for key, how in names.items():
        if origin.get(key) != wanted[key]:
            raise FootplateError(f"prepared: {folder} was made {how}; prepare it anew, or leave this key out")
    if (damaged := find_damage(folder)) is not None:
        raise FootplateError(f"prepared: {folder / damaged} is damaged; prepare it anew, or leave this key out")
    models = {side: (folder / f"{side}.model") for side in ("source", "target")}
    there = Vocabulary()
    there.load_models({side: path.read_bytes() for side, path in models.items() if path.exists()})
    if not vocabulary.learned:
        vocabulary.load_models(there.models())
    elif vocabulary.fingerprint() != there.fingerprint():
        raise FootplateError(
            f"prepared: {folder} has another vocabulary than this run; put the old folder back, or begin a new run"
        )
    pairs = map_corpus(folder)
    if config.sampled and pairs.text is None:
        raise FootplateError(
            f"prepared: {folder} was made without the text that segmentations are drawn from; "
            "prepare it anew with the recipe as it is now"
        )
    return pairs


def _settings(config: VocabularyConfig) -> dict[str, Any]:
    settings: dict[str, Any] = config.model_dump(mode="json", exclude=_DRAWN)
    return settings


@contextmanager
def _explaining(folder: Path, instead: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "make room" if error.errno in _FULL else "make its folder writable"
        raise FootplateError(
            f"{folder}: the tokenised corpus cannot be written ({error.strerror or error}); {remedy}, or {instead}"
        ) from error
