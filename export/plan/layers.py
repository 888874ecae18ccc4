"""Which types a plan's layers compute in.

Networks are strongly typed, so the types of the parsed network bind the builder. They can be read
without a GPU; the kernels that were chosen (`IEngineInspector`) only from a deserialised plan.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from dic.console import UserError

COMPUTING = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
QUANTISED = "quantised"
# The type that must occur, by an engine's precision.
NEEDED = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": QUANTISED}


def layer_types(trt: ModuleType, network: Any) -> dict[str, int]:
    """Count the computing layers of a parsed network by the type of their results.

    A layer that reads dequantised tensors counts as QUANTISED: a builder may compute it on
    integers, or on floats from weights that are stored as integers.
    """
    dequantised = set()
    found: Counter[str] = Counter()
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        if layer.type == trt.LayerType.DEQUANTIZE:
            dequantised.add(layer.get_output(0).name)
        if layer.type.name in COMPUTING:
            inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
            names = {tensor.name for tensor in inputs if tensor is not None}
            kind = layer.get_output(0).dtype.name
            found[QUANTISED if names & dequantised else kind] += 1
    return dict(found.most_common())


def check_precision(source: Path, precision: str, layers: dict[str, int]) -> None:
    """Check that a plan has layers of its engine's precision.

    Raises:
        UserError: it has none.
    """
    needed = NEEDED[precision]
    if layers and not layers.get(needed):
        kinds = ", ".join(layers)
        raise UserError(
            f"{source}: is {precision}, but the plan's layers compute in {kinds}; export it again"
        )
