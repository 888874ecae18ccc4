"""int8: convolutions between QuantizeLinear and DequantizeLinear, everything else in float16.

By ONNX Runtime's static quantiser. It is kept as well as the runtime itself, needs nothing that an
export does not have, and writes what TensorRT reads: symmetric, a scale for every output channel
of a weight, nothing on biases. (nvidia-modelopt, the other candidate, pins older versions of onnx
and of ONNX Runtime's GPU build and wants CuPy, on a machine that may have no GPU.)

Weights and the inputs of convolutions are quantised, not their outputs: what lies between, an
activation or an addition, sees the convolution's full result, and TensorRT fuses it in.
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
CHUNK = 1
CONVOLUTIONS = ("Conv", "ConvTranspose")
# Three channels in or out, the heatmaps themselves, and the attention's sums over them (a
# convolution of no block): little to compute and much to lose. The last layer has another name
# where it is packed.
KEPT = (
    *("conv_first", "conv_last/2", "conv_last/Conv"),
    *("hour_glass/pre_conv_block/0", "hour_glass/last/3", "Conv"),
)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """The calibration faces, a few at a time."""

    def __init__(self, name: str, faces: NDArray[np.generic], bar: Progress) -> None:
        self.parts = iter(np.split(faces, range(CHUNK, len(faces), CHUNK)))
        self.name, self.bar = name, bar

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        part = next(self.parts, None)
        if part is None:
            return None
        self.bar.update(len(part))
        return {self.name: part}


def quantised(model: onnx.ModelProto, faces: NDArray[np.generic]) -> onnx.ModelProto:
    """Insert Q/DQ pairs around a graph's convolutions.

    Args:
        model: with nodes named by `export.graph.names`.
        faces: input for calibration, as the engine takes it.
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
        _quiet(),
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
    """A node's name within its step, without the number that tells it from others of that name."""
    return re.sub(r"_\d+$", "", split_name(name)[1])


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises a preparation that an exported graph has behind it."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
