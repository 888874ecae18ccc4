"""Plans for tests: with the JSON file that the product's own export writes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
from onnx import TensorProto, helper

from export.engine_file import read_engine_file
from export.plan.flavour import MODULES, Flavour, PlanChoices
from export.tensorrt import plan_description

from .plan import SimulatedPlan

LIBRARIES = ("tensorrt", "tensorrt_rtx")


def make_plan(
    source: Path,
    path: Path,
    module: str = "tensorrt_rtx",
    sidecar: bool = True,
    version_compatible: bool = False,
    **changes: Any,
) -> Path:
    """Write the plan of an ONNX file.

    Args:
        changes: attributes of `SimulatedPlan`.
    """
    plan = SimulatedPlan(source.read_bytes(), module, host_code=version_compatible)
    content = SimulatedPlan(**(plan.__dict__ | changes)).to_bytes()
    path.write_bytes(content)
    if sidecar:
        trt: Any = SimpleNamespace(__version__=plan.version)
        choices = PlanChoices(plan.batch[0], version_compatible=version_compatible)
        flavour = Flavour(module, MODULES[module], trt)
        text = plan_description(read_engine_file(source), content, flavour, choices)
        path.with_name(f"{path.name}.json").write_text(text)
    return path


def foreign_plan(
    path: Path,
    module: str = "tensorrt",
    kind: int = TensorProto.FLOAT,
    shape: tuple[int | str, ...] = ("n", 4),
    inputs: int = 1,
    **changes: Any,
) -> Path:
    """Write a plan that sums its inputs x0, x1, …: another program's."""
    names = [f"x{n}" for n in range(inputs)]
    values = [helper.make_tensor_value_info(n, kind, list(shape)) for n in (*names, "y")]
    node = helper.make_node("Identity" if inputs == 1 else "Sum", names, ["y"])
    graph = helper.make_graph([node], "g", values[:-1], values[-1:])
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    path.write_bytes(
        SimulatedPlan(onnx_bytes(model), module, **changes).to_bytes()  # type: ignore[arg-type]
    )
    return path


def onnx_bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString())
