"""Run graphs in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from export.graph.interface import Io, Signature
from train.data.pairs import normalise

Outputs = dict[str, NDArray[Any]]


def session(model: onnx.ModelProto, probes: Sequence[str] = ()) -> Callable[[Outputs], Outputs]:
    """Load a model; the result maps inputs by name to outputs by name.

    Args:
        probes: names of intermediate tensors to return as additional outputs.
    """
    names = [output.name for output in model.graph.output]
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in probes if name not in names
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about foldable initializers
    opened = onnxruntime.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    del probed
    names = [output.name for output in opened.get_outputs()]
    return lambda inputs: dict(zip(names, opened.run(names, inputs), strict=True))


def feed(image: NDArray[np.uint8], signature: Signature) -> NDArray[np.generic]:
    """Convert pictures, (B, 16, 16, 3) uint8 RGB, to an engine's input.

    Returns:
        the same pictures for image I/O, normalised (B, 3, 16, 16) float32 for tensor I/O.
    """
    return image if signature.io is Io.IMAGE else normalise(image).numpy()
