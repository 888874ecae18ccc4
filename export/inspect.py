"""`python -m export.inspect`: describe an engine file and whether this machine can run it."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dic.console import Parser, UserError, run
from export import disable_telemetry
from export.engine_file import EngineFile, Kind, damage_named, dtype_name, read_engine_file

if TYPE_CHECKING:
    import onnx

COMPUTING = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m export.inspect",
        description="Print an engine file's metadata, inputs and outputs, operators and their "
        "precision, FLOPs, and whether this machine can run it.",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    facts = inspect(options.file)
    print(json.dumps(facts, indent=1) if options.json else describe(facts))
    return 0


def inspect(path: Path) -> dict[str, Any]:
    """Describe an engine file as JSON-serialisable data.

    Raises:
        UserError: the file is unreadable, damaged, or neither an ONNX file nor a TensorRT plan.
    """
    engine = read_engine_file(path)
    kind = engine.kind.value
    facts: dict[str, Any] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "kind": kind
        if engine.is_ours or not engine.model
        else f"{kind}, not written by this toolkit",
        "metadata": {k: _shortened(k, v) for k, v in engine.metadata.items()},
        "inputs": list(map(str, engine.inputs)),
        "outputs": list(map(str, engine.outputs)),
    }
    if engine.model is not None:
        with damage_named(path):
            facts |= {"opset": engine.opset, **_graph(engine.model)}
    return facts | {"runs_here": runs_here(engine)}


def _shortened(key: str, value: Any) -> Any:
    """A metadata value for display: embedded samples are replaced by their size."""
    return f"{len(value) * 3 // 4:,} bytes" if key == "samples" else value


def _graph(model: onnx.ModelProto) -> dict[str, Any]:
    from export.graph.flops import flops

    weights: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        weights[dtype_name(tensor.data_type)] += math.prod(tensor.dims)
    try:
        counted: dict[str, int] | str = dict(flops(model))
    except Exception as error:  # shape inference has no common exception for foreign graphs
        counted = f"FLOPs not counted: {' '.join(str(error).split())[:150]}"
    return {
        "nodes": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "precision": _precision(model),
        "weights": dict(weights.most_common()),
        "flops": counted,
    }


def _precision(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """Operator → precision → number of nodes, for convolutions and matrix products.

    A node that reads dequantised weights counts as int8: runtimes compute it on integers.
    """
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # as above
        return {}
    types = {t.name: t.data_type for t in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    dequantised = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for node in graph.node:
        if node.op_type in COMPUTING:
            integer = node.input[1] in dequantised
            kind = "int8" if integer else dtype_name(types.get(node.output[0], 0))
            found[node.op_type][kind] += 1
    return {op: dict(counts.most_common()) for op, counts in found.items()}


def runs_here(engine: EngineFile) -> str:
    """Whether this machine can run an engine: "yes, with …" or "no: …"."""
    if engine.kind is Kind.ONNX:
        return _onnx_runs(engine.path)
    module = "tensorrt" if engine.kind is Kind.TENSORRT else "tensorrt_rtx"
    return _plan_runs(engine, module)


def _onnx_runs(path: Path) -> str:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        return f"no: {' '.join(str(error).split())[:200]}"
    used = [
        p for p in session.get_providers() if p != "AzureExecutionProvider"
    ]  # calls a web service
    return f"yes, with ONNX Runtime {onnxruntime.__version__} {used[0]}"


def _plan_runs(engine: EngineFile, module: str) -> str:
    """Compare the plan's header with the GPU, as far as that needs no loading.

    A plan is a program, and describing it must not run it: TensorRT-RTX reads headers; TensorRT
    tells only by loading a plan.
    """
    path = engine.path
    from dic.driver import has_driver
    from dic.tensorrt_log import NO_REASON, plan_logger
    from export.plan.flavour import pick

    if not has_driver():
        return "no: there is no NVIDIA GPU with a working driver"
    try:
        flavour = pick(module, builds=False)
    except UserError as error:
        return f"no: {error}"
    named = f"{flavour.label} {flavour.version}"
    if not flavour.is_rtx:
        built = engine.metadata.get("plan", {}).get("version", "an unknown version")
        return f"unknown: built by {built}, here is {named}; loading it tells (runtime.infer)"
    logger = plan_logger(flavour.trt)
    runtime = flavour.trt.Runtime(logger)
    with path.open("rb") as file:
        header = file.read(runtime.engine_header_size)
    validity, diagnostics = runtime.get_engine_validity(header)
    if validity == flavour.trt.EngineValidity.VALID:
        return f"yes, with {named}"
    if validity == flavour.trt.EngineValidity.SUBOPTIMAL:
        return f"yes, but not at full speed, with {named}"
    why = [
        name.lower().replace("_", " ")
        for name, bit in flavour.trt.EngineInvalidityDiagnostics.__members__.items()
        if int(bit) & int(diagnostics)
    ]
    reason = ", ".join(why) or logger.first.replace(NO_REASON, "not a valid plan")
    return f"no: {named}: {reason}"


def describe(facts: dict[str, Any]) -> str:
    """The result of `inspect` as text."""
    lines = [f"{facts['file']}: {facts['kind']}, {facts['bytes'] / 1e6:.1f} MB"]
    lines += [f"  {name}: {value}" for name, value in facts["metadata"].items()]
    if not facts["metadata"] and "nodes" not in facts:
        lines.append(
            "  no metadata: the .json file that export.tensorrt wrote is not in the same folder"
        )
    for name in ("inputs", "outputs"):
        lines += [f"  {name[:-1]}: {value}" for value in facts[name]]
    if "nodes" in facts:
        lines.append(
            f"  {sum(facts['nodes'].values())} nodes (opset {facts['opset']}): "
            f"{_counts(facts['nodes'])}"
        )
        lines += [f"  {op}: {_counts(kinds)}" for op, kinds in facts["precision"].items()]
        lines.append(f"  weights: {_counts(facts['weights'])}")
        counted = facts["flops"]
        if isinstance(counted, dict):
            counted = f"{sum(counted.values()) / 1e9:.2f} GFLOP per face"
        lines.append(f"  {counted}")
    lines.append(f"  runs here: {facts['runs_here']}")
    return "\n".join(lines)


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in numbers.items())


def cli() -> NoReturn:
    disable_telemetry()
    run(main, "export")


if __name__ == "__main__":
    cli()
