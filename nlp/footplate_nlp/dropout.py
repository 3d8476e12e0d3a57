"""Dropout that is not among the dearest parts of training on a CPU.

torch draws a mask from one serial Mersenne twister: 5.7 ms of one core for 4096 x 128 numbers, however many cores there
are. Here 16 bits decide about each number, drawn by SFC64 from a seed that torch's global generator gives: 1.7 ms; it
saves a twentieth of the training time of a small Transformer. So the mask still follows from `torch.manual_seed`, and
gradient checkpointing, which restores that generator, meets the same mask again.
"""

import numpy as np
import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """x, with each number replaced by 0 with the given probability and the others divided by what is left of 1.

    On a CPU the probability is rounded to a multiple of 2^-16 (and so is the scale, so that the expectation is exactly
    x); elsewhere this is torch's own dropout. Source: Srivastava et al. 2014, section 10 (scaled in training).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        if x.device.type != "cpu":
            return nn.functional.dropout(x, self.probability)
        return x * _mask(x, self.probability)

    def extra_repr(self) -> str:
        return f"probability={self.probability}"


def _mask(x: Tensor, probability: float) -> Tensor:
    """0 or 1 / (1 - probability) for each number of x, contiguous."""
    dropped = min(round(probability * 65536), 65535)
    seed = int(torch.randint(2**62, ()))
    words = np.random.Generator(np.random.SFC64(seed)).integers(
        2**64 - 1, size=(x.numel() + 3) // 4, dtype=np.uint64, endpoint=True
    )
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    uniform = torch.from_numpy(words.view(np.int16)[: x.numel()]).to(exact)
    return uniform.ge_(dropped - 32768).mul_(65536 / (65536 - dropped)).to(x.dtype).view(x.shape)
