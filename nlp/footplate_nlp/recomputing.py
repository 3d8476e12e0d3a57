"""Gradient checkpointing: a layer keeps its inputs only, and is run again when the gradient asks for what was inside.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost", section 4, with one segment a layer.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def run_layer(layer: Callable[..., Any], *inputs: Any, recompute: bool) -> Any:
    """layer(*inputs), which with `recompute` is run again in the backward pass: the same numbers, bit for bit.

    The second run draws the same dropout, as torch's generators are set back to where they were before the first. The
    layer is to do nothing but compute: whatever else it does is done twice.
    """
    if not (recompute and torch.is_grad_enabled()):
        return layer(*inputs)
    # The older, re-entrant kind breaks under DistributedDataParallel and wants inputs with a gradient.
    return checkpoint(layer, *inputs, use_reentrant=False)
