"""The parameter actor: `SharedParameters` in a process of its own, for workers on any machine of a cluster.

Unlike shared memory an actor takes one call after another: no step is lost, and each is whole. What workers wait for
is their turn; each has at most one call there at a time, so the queue is never longer than there are workers.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor, nn

from footplate.faults import LostWorkerError
from footplate.optimizers import RmsProp
from footplate.pool import DebugSettings, debug_settings, settle
from footplate.shared_parameters import SharedParameters
from footplate.step import Metric
from footplate.usage import Lap, Usage

Flat = NDArray[Any]
"""All parameters, or their gradients, one behind another: one piece of memory travels faster than many."""


@ray.remote
class _Keeper:
    def __init__(self, module: nn.Module, optimizer: RmsProp, settings: DebugSettings) -> None:
        settle(settings)
        self._usage = Usage(torch.device("cpu"))
        self._shared = SharedParameters(module, optimizer)
        self._scratch = [torch.empty_like(one) for one in module.parameters()]

    def pull(self, version: int) -> tuple[int, Flat | None]:
        newest = self._shared.pull(self._scratch, version)
        return newest, None if newest == version else flattened(self._scratch)

    def push(self, gradients: Flat, learning_rate: float) -> int:
        fill(self._scratch, gradients)
        return self._shared.push(self._scratch, learning_rate)

    def put(self, parameters: Flat, *, counts: bool) -> None:
        fill(self._scratch, parameters)
        if counts:
            self._shared.put(self._scratch)
        else:
            fill(list(self._shared.module.parameters()), parameters)

    def lap(self) -> Lap:
        return self._usage.lap()

    def state_dict(self) -> dict[str, Any]:
        return self._shared.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._shared.load_state_dict(state)


class RayParameters:
    """`Parameters` that an actor holds: the same arithmetic as in shared memory, by the same code.

    Pickles as a handle of the actor; `module` stays in the process that made this. Raises
    LostWorkerError where the actor has died.
    """

    def __init__(self, module: nn.Module, optimizer: RmsProp, group: PlacementGroup) -> None:
        """The actor lives in bundle 0 of `group`, with the driver, which rests while workers learn."""
        self._module: nn.Module | None = module
        place = PlacementGroupSchedulingStrategy(group, 0)
        keeper = _Keeper.options(num_cpus=0, scheduling_strategy=place)  # type: ignore[attr-defined]
        self._keeper = keeper.remote(module, optimizer, debug_settings())
        self._lap = self._keeper.lap.remote()

    @property
    def module(self) -> nn.Module:
        """The module that the parameters belong to, as it was at the last `refresh`."""
        assert self._module is not None, "a worker has the parameters, not the module"
        return self._module

    def pull(self, into: Sequence[Tensor], version: int = -1) -> int:
        newest, flat = _answer(self._keeper.pull.remote(version))
        if flat is not None:
            fill(into, flat)
        return int(newest)

    def push(self, gradients: Sequence[Tensor], learning_rate: float) -> int:
        return int(_answer(self._keeper.push.remote(flattened(gradients), learning_rate)))

    def put(self, parameters: Sequence[Tensor]) -> None:
        _answer(self._keeper.put.remote(flattened(parameters), counts=True))

    def publish(self) -> None:
        """Workers see the parameters of `module` as they are now. It is no update, and counts as none."""
        _answer(self._keeper.put.remote(flattened(list(self.module.parameters())), counts=False))

    def refresh(self) -> None:
        """`module` gets the parameters that workers made."""
        self.pull(list(self.module.parameters()))

    def usage(self, who: str) -> dict[str, Metric]:
        """What its actor took until it was last asked, which it is without anybody's waiting for the answer."""
        if not ray.wait([self._lap], timeout=0)[0]:
            return {}
        lap: Lap = _answer(self._lap)
        self._lap = self._keeper.lap.remote()
        return lap.metrics(who)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = _answer(self._keeper.state_dict.remote())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _answer(self._keeper.load_state_dict.remote(dict(state)))

    def __getstate__(self) -> dict[str, Any]:
        return {"_keeper": self._keeper, "_module": None}


def flattened(tensors: Sequence[Tensor]) -> Flat:
    """The elements of all tensors, which are of one dtype."""
    return torch.cat([one.detach().reshape(-1) for one in tensors]).numpy()


def fill(into: Sequence[Tensor], flat: Flat) -> None:
    """Write elements where `flattened` took them. `flat` may be memory that nobody may write to."""
    ends = np.cumsum([0, *(one.numel() for one in into)])
    for one, (first, end) in zip(into, pairwise(ends.tolist()), strict=True):
        one.detach().numpy()[...] = flat[first:end].reshape(one.shape)


def _answer(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayActorError as death:
        raise LostWorkerError("the actor that held the parameters died") from death
