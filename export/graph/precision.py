"""Lower precision, decided in the module before it is traced.

TensorRT 11 takes its precisions from the graph, so the graph must say them. The recovery and
landmark networks compute in float16 or bfloat16. What would lose most by it stays in float32: the
input, each step's addition to the enlarged input (and with it what the landmark network is shown),
the division of heatmaps by their peaks, the softmax over components, and the decode.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from export.choices import Precision
from train.model.network import DIC

# Of what lies between int8 convolutions, too.
DTYPES = {
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
    Precision.INT8: torch.float16,
}


class Lowered(nn.Module):
    """A part of the network in another precision: casts what comes in, not what goes out."""

    def __init__(self, part: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        if dtype is torch.bfloat16:
            _keep_transposed(part)
        self.part, self.dtype = part.to(dtype), dtype

    def forward(self, *inputs: Tensor | None) -> Any:
        return self.part(*(None if x is None else x.to(self.dtype) for x in inputs))


class LoweredHourglass(Lowered):
    """The landmark network: its feedback stays low, its heatmaps come out as float32."""

    def forward(self, *inputs: Tensor | None) -> Any:
        heatmap, hidden = super().forward(*inputs)
        return heatmap.float(), hidden


class FloatTransposed(nn.Module):
    """A transposed convolution that stays in float32 within a part that does not."""

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.float()).to(x.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        return self  # a cast of the part around it stops here


def _keep_transposed(module: nn.Module) -> None:
    """TensorRT-RTX 1.7 has no transposed convolutions in bfloat16."""
    for name, child in module.named_children():
        if isinstance(child, nn.ConvTranspose2d):
            setattr(module, name, FloatTransposed(child))
        else:
            _keep_transposed(child)


def lower(network: DIC, dtype: torch.dtype) -> DIC:
    """A copy of the network (packed or not) that computes in `dtype` where that is harmless."""
    lowered: Any = copy.deepcopy(network)
    for name in ("conv_first", "first_block", "block", "conv_last"):
        setattr(lowered, name, Lowered(getattr(lowered, name), dtype))
    lowered.hour_glass = LoweredHourglass(lowered.hour_glass, dtype)
    return lowered.eval()
