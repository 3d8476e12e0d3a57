"""Several models that translate as one: the mean of their probabilities, at each step and under teacher forcing.

Axes: B sentences, T target positions, V vocabulary.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from footplate.checkpoint import Checkpoint, CheckpointStore
from footplate.context import Context
from footplate.errors import CheckpointError, ConfigError, FootplateError
from footplate.folder import RunFolder, create_run
from footplate.job import load_job
from footplate.launch import launch
from footplate_nlp import cross_entropy, translation
from footplate_nlp.beam import BeamConfig
from footplate_nlp.constraints import Constraints
from footplate_nlp.ensemble import Ensemble
from footplate_nlp.evaluation import hold_out, teacher_forced
from footplate_nlp.hypothesis import Length
from footplate_nlp.members import open_ensemble
from footplate_nlp.model import build_model
from footplate_nlp.sampling import SampleConfig
from footplate_nlp.search import GreedyConfig, SearchConfig, search
from footplate_nlp.seq2seq import Seq2Seq
from footplate_nlp.symbols import BOS, EOS
from footplate_nlp.tokenised import Pairs, Sentences
from footplate_nlp.transformer import TransformerConfig
from footplate_nlp.translation import Config
from footplate_nlp.translator import open_translator

SHORT = Length(factor=1, extra=4)
EVERY_KIND: list[SearchConfig] = [
    GreedyConfig(length=SHORT),
    BeamConfig(size=3, n_best=3, length=SHORT),
    BeamConfig(size=3, length=SHORT, constraints=Constraints(no_repeat_ngram=2)),
    SampleConfig(samples=2, top_p=0.9, length=SHORT),
]


def model(seed: int, width: int = 16, tie: str = "all") -> Seq2Seq:
    torch.manual_seed(seed)
    sizes = {"width": width, "heads": 2, "feed_forward_width": 16, "encoder_layers": 1, "decoder_layers": 1}
    return build_model(TransformerConfig.model_validate({**sizes, "tie": tie}), 20, 20).double().eval()


def sources(count: int) -> Tensor:
    source_BS = torch.randint(4, 20, (count, 6), generator=torch.Generator().manual_seed(1))
    source_BS[:, 5] = EOS
    return source_BS


def probabilities(each: Seq2Seq, source_BS: Tensor, tokens: tuple[int, ...]) -> Tensor:
    """p_TV of each next token, of one sentence."""
    with torch.no_grad():
        logits_BTV = each.forced(each.encode(source_BS), torch.tensor([[BOS, *tokens]]))
    return logits_BTV[0].softmax(-1)


@pytest.mark.parametrize("config", EVERY_KIND)
@pytest.mark.parametrize("copies", [1, 3])
def test_an_ensemble_of_one_model_is_that_model(config: SearchConfig, copies: int) -> None:
    alone, source_BS = model(1), sources(12)
    expected = search(alone, source_BS, config)
    found = search(Ensemble([alone] * copies), source_BS, config)
    for one, other in zip(expected, found, strict=True):
        assert [hypothesis.tokens for hypothesis in one] == [hypothesis.tokens for hypothesis in other]
        assert [each.score for each in one] == pytest.approx([each.score for each in other], rel=1e-9)


@pytest.mark.parametrize("config", EVERY_KIND)
def test_models_of_other_sizes_are_averaged_step_by_step(config: SearchConfig) -> None:
    small, large, source_BS = model(1), model(2, width=24, tie="none"), sources(6)
    for row, hypotheses in enumerate(search(Ensemble([small, large]), source_BS, config)):
        for hypothesis in hypotheses:
            both = [probabilities(each, source_BS[row : row + 1], hypothesis.tokens) for each in (small, large)]
            mean_TV = (both[0] + both[1]) / 2
            steps = enumerate((*hypothesis.tokens, EOS))
            expected = sum(math.log(mean_TV[t, token].item()) for t, token in steps)
            assert hypothesis.log_probability == pytest.approx(expected, rel=1e-9)


def test_greedy_search_takes_the_token_with_the_highest_mean() -> None:
    first, second, source_BS = model(1), model(2), sources(1)
    ((found,),) = search(Ensemble([first, second]), source_BS, GreedyConfig(length=SHORT))
    mean_TV = sum(probabilities(each, source_BS, found.tokens) for each in (first, second))
    assert isinstance(mean_TV, Tensor)
    mean_TV[:, [0, BOS]] = 0  # never written
    assert mean_TV.argmax(-1).tolist()[: len(found.tokens)] == list(found.tokens)


def test_the_loss_of_an_ensemble_is_its_own() -> None:
    both, source_BS = [model(1), model(2)], sources(2)
    targets = [[5, 7, 8, 6], [9, 4]]
    pairs = Pairs(Sentences.of(source_BS[:, :5].tolist()), Sentences.of(targets))
    nll, counts = teacher_forced(Ensemble(both), pairs, np.array([0, 1]), Context(precision="fp64"))
    assert counts == [5, 3]
    for row, target in enumerate(targets):
        each = [probabilities(member, source_BS[row : row + 1], tuple(target)) for member in both]
        gold_T = ((each[0] + each[1]) / 2).gather(1, torch.tensor([[*target, EOS]]).t())[:, 0]
        assert nll[row] == pytest.approx(-float(gold_T.log().sum()), rel=1e-12)


def test_the_loss_of_an_ensemble_never_has_all_logits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            found = func(*args, **(kwargs or {}))
            if isinstance(found, Tensor):
                self.numbers = max(self.numbers, found.numel())
            return found

    monkeypatch.setitem(cross_entropy.LOGITS_AT_ONCE, "cpu", 5000)
    torch.manual_seed(1)
    sizes = {"width": 16, "heads": 2, "feed_forward_width": 16, "encoder_layers": 1, "decoder_layers": 1}
    both = [build_model(TransformerConfig.model_validate(sizes), 2000, 2000).eval() for _ in range(2)]
    targets = Sentences.of([list(range(4, 24))] * 10)
    with Largest() as largest:
        teacher_forced(Ensemble(both), Pairs(targets, targets), np.arange(10), Context())
    assert 0 < largest.numbers < 210 * 2000 / 4


TINY = ["corpus.symbols=5", "corpus.longest=5", "corpus.train_pairs=200", "corpus.valid_pairs=20", "model.width=16"]
TINY += ["model.feed_forward_width=16", "batch_tokens=200", "updates=4", "evaluate.every_updates=4", "threads=1"]
TINY += ["save.every_updates=2", "save.keep_last=3"]


def trained(runs: Path, name: str, *overrides: str) -> RunFolder:
    job = load_job("copy-transformer", [*TINY, *overrides])
    folder = create_run(runs, name, name)
    folder.job.write_text(job.to_yaml())
    launch(job, folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with checkpoints of updates 2 and 4: two that differ in seed and size, and one with another vocabulary."""
    folder = tmp_path_factory.mktemp("runs")
    trained(folder, "one")
    trained(folder, "two", "seed=2", "model.feed_forward_width=24", "model.decoder_layers=2")
    trained(folder, "letters", "corpus.symbols=6")
    return folder


def opened(runs: Path, *overrides: str) -> tuple[Config, Context]:
    config = load_job(runs / "one" / "job.yaml", overrides).config
    assert isinstance(config, Config)
    return config, Context(folder=runs / "one", checkpoint=checkpoint(runs / "one", 4))


def checkpoint(run: Path, update: int) -> Checkpoint:
    return CheckpointStore(run / "checkpoints").at(update)


def states(models: Seq2Seq | Ensemble) -> list[float]:
    """Something of each member's weights."""
    assert isinstance(models, Ensemble)
    return [float(next(iter(member.parameters())).detach().double().sum()) for member in models.members()]


def test_members_are_checkpoints_of_this_run_and_of_others_by_name_or_path(runs: Path) -> None:
    def one_of(run: str, update: int) -> float:
        state = checkpoint(runs / run, update).load_module_state("model")
        config = load_job(runs / run / "job.yaml").config
        assert isinstance(config, Config)
        fresh, _, _ = translation.restore_model(config, Context(checkpoint=checkpoint(runs / run, update)))
        assert set(state) == set(fresh.state_dict())
        return float(next(iter(fresh.parameters())).detach().double().sum())

    config, context = opened(runs, "ensemble=['@2', 'two', 'two@2', 'two@last']")
    models, _, update = open_ensemble(config, context, translation.restore_model)
    assert update == 4
    expected = [one_of("one", 4), one_of("one", 2), one_of("two", 4), one_of("two", 2), one_of("two", 4)]
    assert states(models) == pytest.approx(expected)
    config, context = opened(runs, f"ensemble=['{runs / 'two'}@2']")
    models, _, _ = open_ensemble(config, context, translation.restore_model)
    assert states(models) == pytest.approx([one_of("one", 4), one_of("two", 2)])


def test_each_member_of_an_ensemble_of_averages_is_an_average(runs: Path) -> None:
    config, context = opened(runs, "ensemble=[two]", "average=2")
    models, _, _ = open_ensemble(config, context, translation.restore_model)
    for found, run in zip(states(models), ("one", "two"), strict=True):
        each = [checkpoint(runs / run, update).load_module_state("model") for update in (2, 4)]
        name = "target_embedding.weight"
        assert found == pytest.approx(float((each[0][name].double() + each[1][name].double()).sum() / 2), rel=1e-5)


@pytest.mark.parametrize("decay", [0, 0.9])
def test_a_member_of_the_run_itself_has_averaged_weights_where_the_run_has_and_of_another_its_own(
    runs: Path, decay: float
) -> None:
    name = f"moving{decay}"
    trained(runs, name, "ema_decay=0.9")
    config = load_job(runs / name / "job.yaml", [f"ema_decay={decay}", f"ensemble=['@2', {name}@2, two]"]).config
    assert isinstance(config, Config)
    context = Context(folder=runs / name, checkpoint=checkpoint(runs / name, 4))
    models, _, _ = open_ensemble(config, context, translation.restore_model)
    part = "ema" if decay else "model"
    members = [(name, 4, part), (name, 2, part), (name, 2, part), ("two", 4, "model")]
    weights = [checkpoint(runs / run, update).load_module_state(of) for run, update, of in members]
    assert states(models) == pytest.approx([float(each["target_embedding.weight"].double().sum()) for each in weights])


def test_evaluation_reports_the_ensembles_loss_and_translates_with_it(runs: Path) -> None:
    config, context = opened(runs, "ensemble=[two, '@2']", "evaluate.search.kind=beam")
    *_, step = translation.evaluate(config, context)
    models, vocabulary, _ = open_ensemble(config, context, translation.restore_model)
    assert isinstance(models, Ensemble)
    total, count = 0.0, 0
    for source, target in hold_out(config.corpus, config.evaluate, vocabulary).texts:
        (source_ids,), (ids,) = vocabulary.source.encode([source]), vocabulary.target.encode([target])
        each = [probabilities(member, torch.tensor([[*source_ids, EOS]]), tuple(ids)) for member in models.members()]
        mean_TV = torch.stack(each).mean(0)
        total -= sum(math.log(mean_TV[t, token].item()) for t, token in enumerate((*ids, EOS)))
        count += len(ids) + 1
    assert step.metrics["eval/loss"] == pytest.approx(total / count, rel=1e-5)
    ((found,),) = open_translator(config, context)(["a b c"])
    ((alone,),) = open_translator(config.model_copy(update={"ensemble": ()}), context)(["a b c"])
    assert found.score != alone.score


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (
            "letters",
            "its source vocabulary is another one than this run's; choose runs that were trained with the same",
        ),
        ("@3", "one has none of update 3; there are: 2, 4"),
        ("two@9", "two has none of update 9; there are: 2, 4"),
        (
            "nobody",
            "no such run under {runs} (and no such folder with a job.yaml); `footplate runs` lists them",
        ),
    ],
)
def test_members_that_cannot_join_are_refused_by_name(runs: Path, member: str, problem: str) -> None:
    config, context = opened(runs, f"ensemble=['{member}']")
    with pytest.raises(FootplateError) as error:
        open_ensemble(config, context, translation.restore_model)
    assert str(error.value) == f"ensemble: {member}: {problem.format(runs=runs)}"


def test_a_run_of_another_task_cannot_join(runs: Path) -> None:
    task = Path(__file__).parents[1] / "platform" / "line_task.py"
    folder = create_run(runs, "line", "line")
    folder.job.write_text(f"task: {task}\n")
    config, context = opened(runs, "ensemble=[line]")
    with pytest.raises(CheckpointError) as error:
        open_ensemble(config, context, translation.restore_model)
    assert str(error.value) == f"ensemble: line: a run of the task {task} translates nothing; name a run of translation"


def test_what_names_no_checkpoint_is_refused_when_the_recipe_is_read(runs: Path) -> None:
    for name in ("two@newest", "two@", "@", ""):
        with pytest.raises(ConfigError) as error:
            opened(runs, f"ensemble=['{name}']")
        assert error.value.problems == [
            f"command line: ensemble.0: {name!r} names no checkpoint; "
            "give RUN, RUN@UPDATE, RUN@best, RUN@last or @UPDATE"
        ]
