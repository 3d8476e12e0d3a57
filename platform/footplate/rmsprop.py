"""RMSProp with the choices that torch's does not have: where epsilon stands and what the statistic starts at."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 1 << 16


class RootMeanSquare(torch.optim.Optimizer):
    """RMSProp as `footplate.optimizers.RmsProp` documents it, with L2 weight decay."""

    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float,
        *,
        decay: float = 0.99,
        epsilon: float = 1e-8,
        epsilon_inside_root: bool = False,
        initial_statistic: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        settings = {
            "lr": lr,
            "decay": decay,
            "epsilon": epsilon,
            "epsilon_inside_root": epsilon_inside_root,
            "initial_statistic": initial_statistic,
            "momentum": momentum,
            "weight_decay": 0.0,
        }
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step for every parameter that has a gradient; the gradients are left as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in _chunks([one for one in group["params"] if one.grad is not None]):
                self._step(parameters, group)
        return loss

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if group["weight_decay"] != 0:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        squares = [self._slot(one, "mean_square", group["initial_statistic"]) for one in parameters]
        torch._foreach_mul_(squares, group["decay"])
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["decay"])
        if group["epsilon_inside_root"]:
            roots = torch._foreach_add(squares, group["epsilon"])
            torch._foreach_sqrt_(roots)
        else:
            roots = torch._foreach_sqrt(squares)
            torch._foreach_add_(roots, group["epsilon"])
        if group["momentum"] == 0:
            torch._foreach_addcdiv_(parameters, gradients, roots, value=-group["lr"])
            return
        velocities = [self._slot(one, "velocity", 0.0) for one in parameters]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_addcdiv_(velocities, gradients, roots)
        torch._foreach_add_(parameters, velocities, alpha=-group["lr"])

    def _slot(self, parameter: Tensor, name: str, start: float) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.full_like(parameter, start, memory_format=torch.preserve_format)
        slot: Tensor = state[name]
        return slot


def _chunks(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of parameters that one foreach call takes together.

    An accelerator wants them all at once. On the CPU five passes over everything would fetch it from memory five times,
    and one call for each parameter costs more than the arithmetic of a small network: so, what fits into the cache.
    """
    chunk: list[Tensor] = []
    elements = 0
    for parameter in parameters:
        if chunk and parameter.device.type == "cpu" and elements + parameter.numel() > _CHUNK_ELEMENTS:
            yield chunk
            chunk, elements = [], 0
        chunk.append(parameter)
        elements += parameter.numel()
    if chunk:
        yield chunk
