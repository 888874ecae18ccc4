"""A plan's inputs and outputs, read with care: any program may have built it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dic.engine_file import EngineError, TensorInfo


def read_interface(
    path: Path, trt: ModuleType, plan: Any
) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...], tuple[int, int]]:
    """Describe a deserialised plan.

    Args:
        plan: its ICudaEngine. No reference to it is kept.

    Returns:
        inputs, outputs, and the smallest and largest batch of its only profile.

    Raises:
        EngineError: it has several profiles or inputs, a tensor that is a scalar, lies on the
            host, is not linear, has no NumPy type or more dynamic axes than the batch.
    """

    def refuse(why: str) -> EngineError:
        return EngineError(
            f"{path}: not a plan of this toolkit: {why}; build one with python -m export.tensorrt"
        )

    if plan.num_optimization_profiles != 1:
        raise refuse(f"it has {plan.num_optimization_profiles} profiles, not 1")
    inputs, outputs = [], []
    for name in [plan.get_tensor_name(i) for i in range(plan.num_io_tensors)]:
        shape = tuple(plan.get_tensor_shape(name))
        if not shape:
            raise refuse(f"{name} is a scalar")
        if any(size < 0 for size in shape[1:]):
            raise refuse(f"{name} {list(shape)} has dynamic sizes besides the batch")
        try:
            dtype = np.dtype(trt.nptype(plan.get_tensor_dtype(name))).name
        except TypeError:  # bfloat16, fp8, …
            raise refuse(f"{name} is {plan.get_tensor_dtype(name).name}") from None
        if plan.is_shape_inference_io(name) or (
            plan.get_tensor_location(name) != trt.TensorLocation.DEVICE
        ):
            raise refuse(f"{name} is a shape tensor in host memory")
        if plan.get_tensor_format(name) != trt.TensorFormat.LINEAR:
            raise refuse(f"{name} is not in row-major order")
        info = TensorInfo(name, dtype, (None if shape[0] < 0 else shape[0], *shape[1:]))
        is_input = plan.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(info)
    if len(inputs) != 1 or not outputs:
        raise refuse(f"it has {len(inputs)} inputs and {len(outputs)} outputs")
    low, _, high = plan.get_tensor_profile_shape(inputs[0].name, 0)
    return tuple(inputs), tuple(outputs), (int(low[0]), int(high[0]))
