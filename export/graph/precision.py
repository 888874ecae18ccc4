"""Lower the precision of a network's modules before it is recorded.

TensorRT 11 builds strongly typed networks, so the graph must contain the precisions. The recovery
and landmark networks compute in float16 or bfloat16. These parts would lose most accuracy and stay
in float32: the input, each step's addition to the enlarged input (which is also the landmark
network's input), the division of heatmaps by their peaks, the softmax over components, and the
decoding of landmarks.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from export.choices import Precision
from train.model.network import DIC

# The type of layers that are not in float32; for int8, of those between quantised convolutions.
DTYPES = {
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
    Precision.INT8: torch.float16,
}


class Lowered(nn.Module):
    """A module in another precision; casts its inputs, and leaves its outputs in that precision."""

    def __init__(self, part: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        if dtype is torch.bfloat16:
            _keep_transposed(part)
        self.part, self.dtype = part.to(dtype), dtype

    def forward(self, *inputs: Tensor | None) -> Any:
        return self.part(*(None if x is None else x.to(self.dtype) for x in inputs))


class LoweredHourglass(Lowered):
    """The landmark network in lower precision; heatmaps are returned as float32."""

    def forward(self, *inputs: Tensor | None) -> Any:
        heatmap, hidden = super().forward(*inputs)
        return heatmap.float(), hidden


class FloatTransposed(nn.Module):
    """A transposed convolution in float32 within a module of lower precision."""

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.float()).to(x.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        return self  # casting the module around this one must not cast it


def _keep_transposed(module: nn.Module) -> None:
    """Keep transposed convolutions in float32: TensorRT-RTX 1.7 has none in bfloat16."""
    for name, child in module.named_children():
        if isinstance(child, nn.ConvTranspose2d):
            setattr(module, name, FloatTransposed(child))
        else:
            _keep_transposed(child)


def lower(network: DIC, dtype: torch.dtype) -> DIC:
    """A copy of the network, packed or not, that computes in `dtype` except for the parts above."""
    lowered: Any = copy.deepcopy(network)
    for name in ("conv_first", "first_block", "block", "conv_last"):
        setattr(lowered, name, Lowered(getattr(lowered, name), dtype))
    lowered.hour_glass = LoweredHourglass(lowered.hour_glass, dtype)
    return lowered.eval()
