"""A plan's inputs and outputs, read with care: any program may have built it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dic.engine_file import EngineError, TensorInfo


@dataclass(frozen=True)
class Interface:
    """What a deserialised plan says of itself.

    Attributes:
        inputs, outputs: its tensors.
        batches: smallest and largest batch of its profile.
        problem: why it is no plan of ours; empty if it may be one.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    batches: tuple[int, int]
    problem: str

    def checked(self, path: Path) -> Interface:
        """Return it, if it has no problem.

        Raises:
            EngineError: it has one.
        """
        if self.problem:
            raise EngineError(
                f"{path}: not a plan of this toolkit: {self.problem}; build one with "
                "python -m export.tensorrt"
            )
        return self


def describe(trt: ModuleType, plan: Any) -> Interface:
    """Describe a deserialised plan. Raises nothing: a traceback would keep the plan alive.

    Args:
        plan: its ICudaEngine. No reference to it is kept.
    """
    names = [plan.get_tensor_name(i) for i in range(plan.num_io_tensors)]
    found: dict[bool, list[TensorInfo]] = {True: [], False: []}
    problems = [problem for name in names if (problem := _problem(trt, plan, name))]
    for name in names if not problems else ():
        shape = tuple(plan.get_tensor_shape(name))
        dtype = np.dtype(trt.nptype(plan.get_tensor_dtype(name))).name
        info = TensorInfo(name, dtype, (None if shape[0] < 0 else shape[0], *shape[1:]))
        found[plan.get_tensor_mode(name) == trt.TensorIOMode.INPUT].append(info)
    inputs, outputs = tuple(found[True]), tuple(found[False])
    if plan.num_optimization_profiles != 1:
        problems.insert(0, f"it has {plan.num_optimization_profiles} profiles, not 1")
    if not problems and (len(inputs) != 1 or not outputs):
        problems.append(f"it has {len(inputs)} inputs and {len(outputs)} outputs")
    if problems:
        return Interface((), (), (0, 0), problems[0])
    low, _, high = plan.get_tensor_profile_shape(inputs[0].name, 0)
    return Interface(inputs, outputs, (int(low[0]), int(high[0])), "")


def _problem(trt: ModuleType, plan: Any, name: str) -> str:
    """Why a tensor is none of ours; empty if it may be one."""
    shape, dtype = tuple(plan.get_tensor_shape(name)), plan.get_tensor_dtype(name)
    if not shape:
        return f"{name} is a scalar"
    if any(size < 0 for size in shape[1:]):
        return f"{name} {list(shape)} has dynamic sizes besides the batch"
    try:
        trt.nptype(dtype)
    except TypeError:  # bfloat16, fp8, …
        return f"{name} is {dtype.name}"
    on_gpu = plan.get_tensor_location(name) == trt.TensorLocation.DEVICE
    if plan.is_shape_inference_io(name) or not on_gpu:
        return f"{name} is a shape tensor in host memory"
    if plan.get_tensor_format(name) != trt.TensorFormat.LINEAR:
        return f"{name} is not in row-major order"
    return ""
