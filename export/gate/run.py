"""Graphs run by ONNX Runtime on the CPU."""

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
    """A function of a model.

    Args:
        probes: tensors within it that are given as outputs too.
    """
    names = [output.name for output in model.graph.output]
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in probes if name not in names
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of initializers that it could fold
    opened = onnxruntime.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    del probed
    names = [output.name for output in opened.get_outputs()]
    return lambda given: dict(zip(names, opened.run(names, given), strict=True))


def feed(image: NDArray[np.uint8], signature: Signature) -> NDArray[np.generic]:
    """Pictures (B, 16, 16, 3) as an engine takes them."""
    return image if signature.io is Io.IMAGE else normalise(image).numpy()
