"""Updates on several ranks, over gloo. One set of processes of each size does everything: they are slow to start."""

import math
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from footplate.context import Context, Precision
from footplate.errors import TrainingError
from footplate.optimizers import Adam
from footplate.schedules import Linear
from footplate.step import Mean, metric_value
from footplate.update import LossTerms, Update, UpdateConfig

pytestmark = pytest.mark.slow

ROWS = 24


class Crossed(nn.Module):
    """Layers that are used in another order than they were made in, so that buckets are sorted anew."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.last = nn.Linear(24, 1)
        self.first = nn.Linear(8, 24)
        self.third = nn.Linear(24, 24)
        self.second = nn.Linear(24, 24)
        self.norm = nn.BatchNorm1d(24, momentum=0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: tuple[Tensor, Tensor]) -> LossTerms:
        features, targets = batch
        hidden = self.second(torch.tanh(self.norm(self.first(features))))
        hidden = self.third(self.dropout(torch.tanh(hidden)))
        counts = ~targets.isnan()
        errors = (self.last(torch.tanh(hidden)).squeeze(-1) - targets.nan_to_num()).square() * counts
        absolute = Mean(errors.detach().sqrt().sum(), counts.sum())
        return LossTerms(errors.sum(), counts.sum(), {"train/absolute": absolute})


def build(context: Context, dropout: float = 0.0, **config: Any) -> tuple[Crossed, Update]:
    context.seed_torch("initialise")
    loss = context.place(Crossed(dropout))
    settings = UpdateConfig(clip_norm=0.5, **config)
    return loss, Update(loss, Adam(learning_rate=0.01), Linear(), settings, context, updates=10)


def share(context: Context, number: int, accumulate: int) -> list[tuple[Tensor, Tensor]]:
    """This rank's microbatches of a global batch. The first quarter does not count, nor do two rows of five."""
    dtype = torch.float64 if context.precision == "fp64" else torch.float32
    stream = context.torch_stream("batch", number)
    features = torch.randn(ROWS, 8, generator=stream, dtype=dtype)
    targets = torch.randn(ROWS, generator=stream, dtype=dtype)
    targets[torch.arange(ROWS) % 5 > 2] = math.nan
    targets[: ROWS // 4] = math.nan
    pieces = [tensor.tensor_split(context.ranks * accumulate) for tensor in (features, targets)]
    cut = list(zip(*pieces, strict=True))
    return cut[context.rank * accumulate : (context.rank + 1) * accumulate]


def weights_of(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def exactly(context: Context, accumulate: int) -> dict[str, Any]:
    """In float64, and with batch norm as it is in evaluation: nothing depends on how the batch is cut but rounding."""
    loss, update = build(context)
    loss.norm.eval()
    rows = []
    for number in range(6):
        metrics = update(share(context, number, accumulate))
        means = [*metrics["train/loss"], *metrics["train/absolute"]]
        rows.append([*means, metrics["train/grad_norm"]])
    return {"weights": weights_of(loss), "rows": torch.tensor(rows, dtype=torch.float64)}


def train(context: Context, loss: nn.Module, update: Update, last: int) -> dict[str, Any]:
    while update.number < last:
        update(share(context, update.number, accumulate=2))
    return {"loss": loss.state_dict(), "update": update.state_dict()}


def straight_and_resumed(context: Context) -> list[dict[str, Any]]:
    straight = train(context, *build(context, dropout=0.2), last=6)
    # A new Update wraps the module anew, with the buckets in the order in which a new process would have them.
    half = train(context, *build(context, dropout=0.2), last=3)
    loss, update = build(context, dropout=0.2)
    loss.load_state_dict(half["loss"])
    update.load_state_dict(half["update"])
    return [straight, train(context, loss, update, last=6)]


def statistics_of_one_update(context: Context) -> dict[str, Tensor]:
    loss, update = build(context)
    update(share(context, 0, accumulate=1))
    return dict(loss.norm.named_buffers())


def poisoned_on_one_rank(context: Context) -> dict[str, Any]:
    loss, update = build(context, stop_after_non_finite=2)
    update(share(context, 0, accumulate=1))
    before = weights_of(loss)
    ((features, targets),) = share(context, 1, accumulate=1)
    poison = math.nan if context.rank == 1 else 1.0
    metrics = update([(features * poison, targets)])
    with pytest.raises(TrainingError) as caught:
        update([(features * poison, targets)])
    return {
        "before": before,
        "after": weights_of(loss),
        "skipped": metric_value(metrics["train/skipped_updates"]),
        "message": str(caught.value),
    }


def reductions_of_an_update(context: Context, accumulate: int) -> int:
    """How often a bucket of gradients is reduced; all of this model's fit in one."""
    _, update = build(context)
    microbatches = share(context, 0, accumulate)
    forward = update._data_parallel(microbatches[0])
    counted: list[int] = []

    def count(state: None, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
        counted.append(bucket.index())
        return allreduce_hook(None, bucket)

    forward.register_comm_hook(None, count)  # type: ignore[operator]
    update._forward = forward
    update(microbatches)
    return len(counted)


def everything(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    meeting, patience = f"file://{folder}/meeting", timedelta(minutes=2)
    distributed.init_process_group("gloo", init_method=meeting, timeout=patience, rank=rank, world_size=ranks)

    def context(precision: Precision) -> Context:
        return Context(rank=rank, ranks=ranks, precision=precision)

    results = {
        "one piece": exactly(context("fp64"), accumulate=1),
        "two pieces": exactly(context("fp64"), accumulate=2),
        "straight and resumed": straight_and_resumed(context("fp32")),
        "statistics": statistics_of_one_update(context("fp32")),
        "reductions": [reductions_of_an_update(context("fp32"), accumulate) for accumulate in (1, 3)],
        "poisoned": poisoned_on_one_rank(context("fp32")),
    }
    torch.save(results, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3], ids=["two ranks", "three ranks"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `everything` found, by rank."""
    folder = tmp_path_factory.mktemp("ranks")
    # Not multiprocessing: a spawned process finds this module only if it was `python -m pytest` that started.
    commands = [[sys.executable, __file__, str(rank), str(request.param), str(folder)] for rank in range(request.param)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait() for process in processes] == [0] * request.param
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


@pytest.mark.parametrize("cut", ["one piece", "two pieces"])
def test_several_ranks_equal_one(results: list[dict[str, Any]], cut: str) -> None:
    """With three ranks and two pieces the first of them is padding only."""
    alone = exactly(Context(precision="fp64"), accumulate=1)
    for rank in results:
        torch.testing.assert_close(rank[cut], alone, rtol=0, atol=1e-12)
        assert torch.equal(rank[cut]["weights"], results[0][cut]["weights"])


def test_ranks_resume_to_the_same_bytes(results: list[dict[str, Any]]) -> None:
    straight, resumed = results[0]["straight and resumed"]
    torch.testing.assert_close(resumed, straight, rtol=0, atol=0)


def test_settling_the_buckets_leaves_no_trace_in_batch_norm(results: list[dict[str, Any]]) -> None:
    ranks = len(results)
    loss, _ = build(Context())
    hidden = loss.first(share(Context(ranks=ranks), 0, accumulate=1)[0][0])
    statistics = results[0]["statistics"]
    assert statistics["num_batches_tracked"] == 1
    torch.testing.assert_close(statistics["running_mean"], 0.5 * hidden.mean(0))
    torch.testing.assert_close(statistics["running_var"], 0.5 + 0.5 * hidden.var(0))


def test_microbatches_are_added_up_before_they_are_exchanged(results: list[dict[str, Any]]) -> None:
    assert [rank["reductions"] for rank in results] == [[1, 1]] * len(results)


def test_a_gradient_that_is_not_finite_on_one_rank_is_skipped_on_all(results: list[dict[str, Any]]) -> None:
    for result in (rank["poisoned"] for rank in results):
        assert result["skipped"] == 1.0
        assert torch.equal(result["after"], result["before"])
        assert result["message"] == (
            "update 3: gradient of last.weight: not finite 2 times in a row; "
            "lower optimizer.learning_rate or set update.clip_norm"
        )


if __name__ == "__main__":
    everything(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
