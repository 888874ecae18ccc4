"""A bound of the memory that an export takes, by its network's weights and activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dic.sizes import LQ_SIZE
from export.choices import Precision
from train.model.network import DIC

FIXED = 300 * 2**20  # bytes, of libraries' work whatever the network
# Copies of the weights, of all activations of all steps (what is compared block by block), and of
# one step's (what the blocks need to compute in float64). Fitted to the measured peaks in
# docs/results.md and raised by a quarter or more.
FACTORS = {
    Precision.FP32: (7.0, 1.2, 3.5),
    Precision.FP16: (7.0, 1.2, 3.5),
    Precision.BF16: (7.0, 1.2, 3.5),
    Precision.INT8: (8.0, 4.0, 0.0),
}


def needed_bytes(network: DIC, steps: int, precision: Precision) -> int:
    """An upper bound of what `export.exporter.export` takes beside the loaded network.

    Args:
        steps: that the graph is unrolled to.
    """
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    first, later = (activation_bytes(network, count) for count in (1, 2))
    step = max(first, later - first)
    copies, of_all, of_one = FACTORS[precision]
    return int(FIXED + copies * weights + of_all * (first + (steps - 1) * step) + of_one * step)


def activation_bytes(network: DIC, steps: int) -> int:
    """Bytes of the results of all layers for one face in float32; nothing is computed."""
    with torch.device("meta"):
        shadow = DIC(network.config).to("meta")
    total = 0

    def add(layer: nn.Module, given: Any, result: Tensor) -> None:
        nonlocal total
        total += result.numel() * result.element_size()

    for layer in shadow.modules():
        if not list(layer.children()):
            layer.register_forward_hook(add)
    with torch.no_grad():
        shadow(torch.empty(1, 3, LQ_SIZE, LQ_SIZE, device="meta"), steps)
    return total
