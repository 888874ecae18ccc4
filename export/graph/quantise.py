"""Quantise to int8: convolutions with QuantizeLinear/DequantizeLinear pairs, the rest in float16.

Uses ONNX Runtime's static quantiser, which is maintained with the runtime, needs no further
dependency, and writes the form that TensorRT reads: symmetric, with one scale per output channel of
a weight, and unquantised biases. (The alternative, nvidia-modelopt, pins older versions of onnx and
of ONNX Runtime's GPU build and needs CuPy, on a machine that may have no GPU.)

The weights and inputs of convolutions are quantised, not their outputs: the following activation or
addition reads the convolution's unquantised result, and TensorRT fuses the two.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from dic.progress import Progress
from export.graph.names import split_name

CALIBRATION = 32  # faces
CONVOLUTIONS = ("Conv", "ConvTranspose")
ADVICE = "consider to run pre-processing"
# Convolutions that stay in float16, because they take little time and int8 would cost accuracy:
# those with 3 input or output channels, the heatmaps' and the attention's sum over heatmaps
# (outside any block, hence "Conv"). The packed last layer has another name than the plain one.
KEPT = (
    *("conv_first", "conv_last/2", "conv_last/Conv"),
    *("hour_glass/pre_conv_block/0", "hour_glass/last/3", "Conv"),
)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Yields the calibration faces one by one."""

    def __init__(self, name: str, faces: NDArray[np.generic], bar: Progress) -> None:
        self.parts = iter(np.split(faces, len(faces)))
        self.name, self.bar = name, bar

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        part = next(self.parts, None)
        if part is None:
            return None
        self.bar.update(len(part))
        return {self.name: part}


def quantised(model: onnx.ModelProto, faces: NDArray[np.generic]) -> onnx.ModelProto:
    """A copy of a graph with Q/DQ pairs around its convolutions.

    Args:
        model: a graph with nodes named by `export.graph.names`.
        faces: calibration inputs in the engine's layout and type, (N, …).
    """
    kept = [
        node.name
        for node in model.graph.node
        if node.op_type in CONVOLUTIONS
        and any(f"{_unnumbered(node.name)}/".startswith(f"{block}/") for block in KEPT)
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(total=len(faces), desc="calibrating", unit="face", leave=False) as bar,
        _hidden_advice(),
    ):
        path = Path(folder) / "quantised.onnx"
        quantize_static(
            model,
            path,
            _Reader(model.graph.input[0].name, faces, bar),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(CONVOLUTIONS),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": list(CONVOLUTIONS),
            },
        )
        result = onnx.load(path)
    for part in (result, result.graph, *result.graph.node):
        del part.metadata_props[:]
    return result


def _unnumbered(name: str) -> str:
    """A node's name within its step, without the number that makes it unique."""
    return re.sub(r"_\d+$", "", split_name(name)[1])


@contextmanager
def _hidden_advice() -> Iterator[None]:
    """Drop the quantiser's advice to pre-process the model, which exported graphs do not need.

    It is logged by `logging.warning`, to the root logger, after adding a handler to it if it has
    none; the null handler prevents that.
    """
    root = logging.getLogger()
    handler = logging.NullHandler()

    def keep(record: logging.LogRecord) -> bool:
        return ADVICE not in record.getMessage()

    root.addFilter(keep)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.removeFilter(keep)
