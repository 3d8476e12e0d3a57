"""Parameters that asynchronous workers share behind `pull` and `push`, with one optimizer and one statistic.

In the memory of one machine nothing is locked: a worker may read a tensor while another one writes it, and two that
write at the same time may lose a part of a step.

Source: Recht et al. 2011, "Hogwild!: a lock-free approach to parallelizing stochastic gradient descent"; Mnih et al.
2016, "Asynchronous methods for deep reinforcement learning", section 4.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from footplate.optimizers import RmsProp, build_optimizer
from footplate.step import Metric


class Parameters(Protocol):
    """What a worker needs: where the parameters are is not its business."""

    def pull(self, into: Sequence[Tensor], version: int = -1) -> int:
        """Copy the newest parameters, unless they are still those of `version`; returns the version that they have."""

    def push(self, gradients: Sequence[Tensor], learning_rate: float) -> int:
        """Make one step of the shared optimizer; returns the version of before."""

    def put(self, parameters: Sequence[Tensor]) -> None:
        """Overwrite the parameters by these."""


class SharedParameters:
    """`Parameters` in the memory of this machine, for all processes that it is pickled to by `multiprocessing`."""

    module: nn.Module
    """The module that the parameters belong to: whoever owns it may read, evaluate and save it while workers rest."""

    def __init__(self, module: nn.Module, optimizer: RmsProp) -> None:
        """Moves the parameters of `module`, on the CPU, into shared memory, in place."""
        self.module = module.share_memory()
        self._config = optimizer
        slots = {"mean_square": float(optimizer.initial_statistic)}
        if optimizer.momentum:
            slots["velocity"] = 0.0
        self._slots = [
            {name: _shared(torch.full_like(one, start)) for name, start in slots.items()} for one in module.parameters()
        ]
        self._version = _shared(torch.zeros((), dtype=torch.int64))
        self._open()

    def _open(self) -> None:
        self._parameters: list[Tensor] = list(self.module.parameters())
        self._optimizer = build_optimizer(self._config, self.module)
        self._optimizer.state.update(zip(self._parameters, self._slots, strict=True))

    @torch.no_grad()
    def pull(self, into: Sequence[Tensor], version: int = -1) -> int:
        newest = int(self._version)
        if newest != version:
            torch._foreach_copy_(list(into), self._parameters)
        return newest

    def push(self, gradients: Sequence[Tensor], learning_rate: float) -> int:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient  # of this process alone
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        before = int(self._version)
        self._optimizer.step()
        # Not atomic either: two that count at once count one. Nothing but a metric and the target network look at it.
        self._version += 1
        return before

    def publish(self) -> None:
        """Workers are to see the parameters of `module` as they are now; here it is the same memory."""

    def refresh(self) -> None:
        """`module` is to have the parameters that workers made, who rest; here it is the same memory."""

    def usage(self, who: str) -> dict[str, Metric]:
        """What holds the parameters takes of its machine, as `system/WHO/cores` and so on: nothing, if it is memory."""
        return {}

    @torch.no_grad()
    def put(self, parameters: Sequence[Tensor]) -> None:
        torch._foreach_copy_(self._parameters, list(parameters))
        self._version += 1

    def state_dict(self) -> dict[str, Any]:
        """All but the parameters: the statistics, in the order of the parameters."""
        return {"slots": self._slots, "version": int(self._version)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where the state was taken; no worker may be at work."""
        for own, saved in zip(self._slots, state["slots"], strict=True):
            for name in own:
                own[name].copy_(saved[name])
        self._version.fill_(state["version"])

    def __getstate__(self) -> dict[str, Any]:
        """Optimizers do not pickle; each process has its own, around the same memory."""
        return {name: getattr(self, name) for name in ("module", "_config", "_slots", "_version")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _shared(tensor: Tensor) -> Tensor:
    return tensor.detach().share_memory_()  # type: ignore[no-any-return, no-untyped-call]


ShareParameters = Callable[[nn.Module, RmsProp], Any]
"""`SharedParameters`, or what has its signature and gives what has its methods."""
