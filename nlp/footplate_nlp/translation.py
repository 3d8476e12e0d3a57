"""The task `translation`: one text into another, learned from pairs."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from footplate.context import Context
from footplate.ema import ExponentialAverage
from footplate.errors import CheckpointError, FootplateError
from footplate.folder import relative
from footplate.initialisers import Initialiser, initialise
from footplate.job import Job
from footplate.optimizers import Adam, Optimizer
from footplate.schedules import InverseSqrt, Plateau, Schedule
from footplate.section import Count, NonNegative, Probability, Section
from footplate.step import Latest, Medium, Stateful, Step
from footplate.streams import numpy_stream
from footplate.update import Update, UpdateConfig
from footplate_nlp.averaging import average_checkpoints, latest_checkpoints
from footplate_nlp.batches import BatchOrder
from footplate_nlp.bootstrap import paired_bootstrap
from footplate_nlp.corpora import Corpus, Folder, single_corpora, text_fingerprint
from footplate_nlp.evaluation import Evaluation, Held, hold_out, read_texts, target_language
from footplate_nlp.evaluation import evaluate as evaluate_model
from footplate_nlp.losses import TranslationLoss, WordDropout
from footplate_nlp.members import Member, find_member, open_ensemble
from footplate_nlp.metrics import as_table, score
from footplate_nlp.model import ModelConfig, build_model
from footplate_nlp.recurrent import RecurrentConfig
from footplate_nlp.report import Report, comparison_table, keep, length_table, require_same_texts, worst_table
from footplate_nlp.scheduled_sampling import ScheduledSampling
from footplate_nlp.segmentation import Segmenter
from footplate_nlp.seq2seq import Seq2Seq
from footplate_nlp.training_pairs import open_corpus
from footplate_nlp.transformer import TransformerConfig
from footplate_nlp.vocabulary import Bpe, Vocabulary, VocabularyConfig

DEBUG_OVERRIDES: Mapping[str, object] = {
    "updates": 5,
    "batch_tokens": 256,
    "evaluate.every_updates": 5,
    "evaluate.sentences": 8,
}

EVALUATION_KEYS = ("evaluate", "corpus", "average", "ema_decay", "ensemble", "report")

NEXT_COMMANDS = ("footplate evaluate {run} evaluate.split=test", "footplate translate {run} --beam 5 < sentences.txt")


class Config(Section):
    """A translator and how it is trained."""

    updates: Count
    """How many optimizer updates the run makes."""
    corpus: Corpus
    """Where the sentence pairs come from."""
    vocabulary: VocabularyConfig = Bpe()
    """What text is cut into; learned from the training pairs."""
    prepared: Folder | None = None
    """A folder that `footplate data prepare` made: vocabulary and tokens are taken from it; null makes them."""
    model: ModelConfig = TransformerConfig()
    """The network."""
    initialiser: Initialiser | None = None
    """How the weights begin, embeddings and norms apart; null is as the model's paper has it."""
    optimizer: Optimizer = Adam(betas=(0.9, 0.98))
    """What makes a step of a gradient."""
    schedule: Schedule = InverseSqrt()
    """How the learning rate changes over the updates."""
    update: UpdateConfig = UpdateConfig()
    """Accumulation and clipping."""
    batch_tokens: Count = 4096
    """Tokens of an update over all ranks and accumulation steps: pairs times their longest side, so padding counts."""
    longest: Count = 256
    """Training pairs with more tokens on a side, the end of sentence included, are left out; how many is reported."""
    label_smoothing: Probability = 0.1
    """The share of the target distribution that is spread evenly over the vocabulary."""
    scheduled_sampling: ScheduledSampling | None = None
    """Feeding the decoder with its own predictions now and then; null is teacher forcing throughout."""
    word_dropout: WordDropout = WordDropout()
    """Input tokens made unknown in training."""
    coverage_loss: NonNegative = 0.0
    """The weight of the penalty for looking again where one has looked (See et al. 2017, eq. 13; there 1)."""
    evaluate: Evaluation
    """When and how to validate."""
    plateau_metric: Literal["loss", "bleu", "chrf", "exact_match"] = "loss"
    """What a plateau schedule watches, of `eval/...`; it also says which value is the better one."""
    ema_decay: Probability = 0.0
    """What evaluates and translates is the exponential moving average of the weights with this decay, such as 0.999;
    0 keeps none."""
    average: Count = 1
    """`evaluate` and `translate` use the mean of so many of the last checkpoints; save.keep_last must keep as many."""
    ensemble: tuple[Member, ...] = ()
    """Checkpoints that `evaluate` and `translate` let decode together with the run's own, their probabilities averaged:
    RUN, RUN@UPDATE (or @best, @last), or @UPDATE of this run. Where `average` is set, each is such an average."""
    report: Report = Report()
    """What `footplate evaluate` tells beside the scores."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.model.tie == "all" and not self.vocabulary.joint:
            raise ValueError(
                "model.tie: all shares one matrix between source and target, but vocabulary.joint is false; "
                "set model.tie to target, or vocabulary.joint to true"
            )
        if self.model.copying and not self.vocabulary.joint:
            raise ValueError(
                "model.copying: a source token is copied by its id, but vocabulary.joint is false; "
                "set vocabulary.joint to true, or leave copying out"
            )
        if self.coverage_loss and isinstance(self.model, RecurrentConfig) and self.model.attention.kind == "none":
            raise ValueError(
                "coverage_loss: it is about where attention looks, but model.attention.kind is none; "
                "choose another, or leave this out"
            )
        if isinstance(self.model, RecurrentConfig):
            if self.scheduled_sampling is not None and self.scheduled_sampling.passes is not None:
                raise ValueError(
                    "scheduled_sampling.passes: a recurrent decoder predicts as it goes, in one pass; leave it out"
                )
            if self.initialiser is not None and "recurrent_initialiser" in self.model.model_fields_set:
                raise ValueError(
                    "model.recurrent_initialiser: the recipe's initialiser draws the recurrent matrices too; "
                    "leave one of them out"
                )
        if self.plateau_metric != "loss" and not isinstance(self.schedule, Plateau):
            raise ValueError(
                f"plateau_metric: {self.plateau_metric} is watched by a plateau, and schedule.kind is "
                f"{self.schedule.kind}; set that to plateau, or leave this out"
            )
        better = self.plateau_better
        if isinstance(self.schedule, Plateau) and self.schedule.better not in {None, better}:
            raise ValueError(
                f"schedule.better: {self.schedule.better} does not suit plateau_metric {self.plateau_metric}; "
                f"set it to {better}, or leave it out"
            )
        scoring = self.evaluate.scoring
        untold = scoring.tokenize != "none" and target_language(self.corpus, scoring) is None
        if untold and "bleu_tokenised" in (scoring.also or ()):
            raise ValueError(
                "evaluate.scoring.also: bleu_tokenised needs the target's language, which this corpus does not tell; "
                "set evaluate.scoring.language, such as de, or leave it out"
            )
        return self

    @property
    def widest(self) -> int:
        """The most tokens on a side, the end of sentence included, of a pair that is trained on."""
        return min(self.longest, self.batch_tokens)

    @property
    def plateau_better(self) -> Literal["higher", "lower"]:
        """Which value of `plateau_metric` is the better one."""
        return "lower" if self.plateau_metric == "loss" else "higher"


def check(job: Job) -> None:
    """Raise ValueError where the run would not keep the checkpoints that it is to average, or never sample its inputs.

    `--debug` makes few updates of a recipe that was written for many: there it may end before the sampling begins.
    """
    assert isinstance(job.config, Config)
    sampling = job.config.scheduled_sampling
    if sampling is not None and sampling.begin_update >= job.config.updates and not job.debug:
        raise ValueError(
            f"scheduled_sampling.begin_update: {sampling.begin_update} is not below "
            f"updates: {job.config.updates}, so it would never act; lower it"
        )
    if job.config.average > job.save.keep_last:
        raise ValueError(
            f"average: {job.config.average} checkpoints, but save.keep_last: {job.save.keep_last} keeps fewer; "
            f"train with save.keep_last={job.config.average}, or average fewer"
        )


def evaluated_metrics(config: Config) -> set[str]:
    """What an evaluation in training measures."""
    scoring = config.evaluate.scoring
    scores = score(["a"], ["a"], scoring, target_language(config.corpus, scoring))
    corpora = [f"{single.name}/" for single in single_corpora(config.corpus) if single.name is not None]
    names = {f"eval/{corpus}{name}" for corpus in ["", *corpora] for name in [*scores, "truncated"]}
    return names | {"eval/loss", "eval/perplexity"}


def check_evaluation(trained: Config, asked: Config) -> None:
    """Raise FootplateError where a trained run is asked for an average of its weights that it has not kept."""
    if asked.ema_decay in {0.0, trained.ema_decay}:
        return
    if not trained.ema_decay:
        raise FootplateError(
            f"ema_decay: {asked.ema_decay:g}, but the run was trained without a moving average; leave it out"
        )
    raise FootplateError(
        f"ema_decay: {asked.ema_decay:g}, but the run was trained with {trained.ema_decay:g}; leave it out, or set it "
        "to 0 for the weights themselves"
    )


def train(config: Config, context: Context) -> Iterator[Step]:
    """Train a translator; its checkpoints hold the vocabulary, so that they translate raw text.

    Raises FootplateError for what only an evaluation can be asked for.
    """
    for key, value in (("ensemble", config.ensemble), ("report.against", config.report.against)):
        if value:
            raise FootplateError(
                f"{key}: other checkpoints play no part in training; leave it out, and name them to footplate evaluate"
            )
    vocabulary = Vocabulary()
    context.restore(vocabulary=vocabulary)
    text = text_fingerprint(config.corpus)
    pairs = open_corpus(config.corpus, vocabulary, config.vocabulary, context, text, config.prepared)
    held = hold_out(config.corpus, config.evaluate, vocabulary)
    model = _new_model(config, vocabulary, context)
    loss = TranslationLoss(
        model,
        config.label_smoothing,
        coverage_weight=config.coverage_loss,
        word_dropout=config.word_dropout,
        scheduled_sampling=config.scheduled_sampling,
    )
    schedule = config.schedule
    if isinstance(schedule, Plateau):
        schedule = schedule.model_copy(update={"better": config.plateau_better})
    update = Update(loss, config.optimizer, schedule, config.update, context, updates=config.updates)
    order = BatchOrder(
        pairs,
        config.batch_tokens,
        config.widest,
        context,
        accumulate=config.update.accumulate,
        corpus=text,
        segmenter=Segmenter(pairs, vocabulary, config.vocabulary, context) if config.vocabulary.sampled else None,
    )
    state: dict[str, Stateful] = {"model": model, "update": update, "order": order, "vocabulary": vocabulary}
    average = ExponentialAverage(model, config.ema_decay) if config.ema_decay else None
    if average is not None:
        state["ema"] = average.model
    context.restore(**state)
    _say_what_is_trained_on(order, vocabulary, model, context)
    batches = order.updates()
    while update.number < config.updates:
        batch = next(batches)
        if config.scheduled_sampling is not None:
            loss.true_share = config.scheduled_sampling.share(update.number + 1)
        metrics = update(batch.microbatches)
        if average is not None:
            average.update(update.number)
        if config.scheduled_sampling is not None:
            metrics["train/true_share"] = Latest(loss.true_share)
        media: dict[str, Medium] = {}
        if config.evaluate.due(update.number) or update.number == config.updates:
            best = model if average is None else average.model
            found = yield from evaluate_model(best, vocabulary, held, config.evaluate, context, update.number)
            update.observe(found.metrics[f"eval/{config.plateau_metric}"])
            metrics |= found.metrics
            media["samples"] = found.samples
        work = {"target_tokens": batch.target_tokens, "source_tokens": batch.source_tokens}
        yield Step(update.number, metrics, work, state, media)


def evaluate(config: Config, context: Context) -> Iterator[Step]:
    """Score the checkpoint, or the average of the last `average` ones, on `evaluate.split`; tell what `report` asks.

    Texts and scores are kept under `evaluations/` of the run folder, and the media show them.
    """
    evaluation, report = config.evaluate.with_all_scores(), config.report
    model, vocabulary, update = open_ensemble(config, context, restore_model)
    held = hold_out(config.corpus, evaluation, vocabulary)
    rival = None if report.against is None else _find_rival(report.against, config, held, context)
    found = yield from evaluate_model(model, vocabulary, held, evaluation, context, update)
    tables = {"scores": as_table(found.scores), "lengths": length_table(held, found, report.buckets)}
    if report.against is not None and rival is not None:
        model, vocabulary, its_update = restore_model(*rival)
        theirs = hold_out(rival[0].corpus, evaluation, vocabulary)
        other = yield from evaluate_model(model, vocabulary, theirs, evaluation, context, its_update)
        stream = numpy_stream(0, "bootstrap")  # not of this run's seed: the other one against this draws the same
        differences = paired_bootstrap(found.scores, other.scores, report.resamples, stream)
        tables["against"] = comparison_table(Path(report.against).name, differences)
    tables |= {"worst": worst_table(held, found, report.worst), "samples": found.samples}
    kept = None
    if context.folder is not None:
        place = context.folder / "evaluations" / f"{evaluation.split}-{update:06d}"
        kept = keep(place, _settings(config, context, update), held, found, tables)
    yield Step(update, found.metrics, media=tables)
    if kept is not None:
        logging.getLogger("footplate").info(f"texts and scores are kept in {relative(kept)}")


def _settings(config: Config, context: Context, update: int) -> dict[str, Any]:
    """All that the outputs of an evaluation follow from, besides the run itself."""
    keys = config.model_dump(mode="json", include={"corpus", "average", "ema_decay", "ensemble"})
    keys["evaluate"] = config.evaluate.model_dump(mode="json", include={"split", "sentences", "search", "prefix"})
    return {"update": update, "seed": context.seed, "precision": context.precision, **keys}


_FOLDERS: Any = {"folder": True, "corpora": {"__all__": {"folder"}}}


def _find_rival(name: str, config: Config, held: Held, context: Context) -> tuple[Config, Context]:
    """The other run and its checkpoint, to be evaluated as this one is. Raises FootplateError where it cannot be."""
    try:
        its_config, its_context = find_member(name, config, context)
        mine, its = (each.corpus.model_dump(exclude=_FOLDERS) for each in (config, its_config))
        if mine == its:  # its files may have moved since
            its_config = its_config.model_copy(update={"corpus": config.corpus})
        else:
            require_same_texts(read_texts(its_config.corpus, config.evaluate), held.texts)
    except FootplateError as error:
        raise FootplateError(f"report.against: {error}") from error
    return its_config, its_context


def restore_model(config: Config, context: Context) -> tuple[Seq2Seq, Vocabulary, int]:
    """The trained model on its device, the vocabulary, and the number of updates: all that translation needs.

    Raises CheckpointError where there is nothing to restore.
    """
    if context.checkpoint is None:
        raise CheckpointError("evaluate: there is no checkpoint to restore; name one of a trained run")
    vocabulary = Vocabulary()
    context.restore(vocabulary=vocabulary)
    model = _new_model(config, vocabulary, context)
    part = "ema" if config.ema_decay else "model"
    if config.average == 1:
        context.restore(**{part: model})
    else:
        model.load_state_dict(average_checkpoints(latest_checkpoints(context.checkpoint, config.average), part))
    return model.eval(), vocabulary, context.checkpoint.update


def _new_model(config: Config, vocabulary: Vocabulary, context: Context) -> Seq2Seq:
    context.seed_torch("initialise")
    model = build_model(config.model, vocabulary.source.size, vocabulary.target.size)
    initialise(model, config.initialiser)
    return context.place(model)


def _say_what_is_trained_on(order: BatchOrder, vocabulary: Vocabulary, model: Seq2Seq, context: Context) -> None:
    if context.rank == 0:
        sizes = [vocabulary.source.size] if vocabulary.joint else [vocabulary.source.size, vocabulary.target.size]
        logging.getLogger("footplate").info(
            f"{len(order.pairs):,} training pairs, {order.dropped:,} of them left out (over {order.longest} tokens); "
            f"vocabulary of {' and '.join(f'{size:,}' for size in sizes)}; "
            f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters"
        )
