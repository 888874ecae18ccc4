"""`python -m export.inspect`: what is in an engine file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from train.console import Parser, UserError, run

PLANS = {b"ptrt": "TensorRT", b"ftrt": "TensorRT", b"vtrt": "TensorRT-RTX"}


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m export.inspect",
        description="What is in an engine file: metadata, inputs and outputs, operators, FLOPs.",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    facts = inspect(options.file)
    print(json.dumps(facts, indent=1) if options.json else told(facts))
    return 0


def inspect(path: Path) -> dict[str, Any]:
    """The facts of an engine file, as plain data.

    Raises:
        UserError: unreadable, or neither an ONNX file nor a TensorRT plan.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    if magic in PLANS:
        return _plan(path, PLANS[magic])

    import onnx
    from onnx import numpy_helper

    from export.flops import flops

    try:
        model = onnx.load(str(path))
    except Exception as error:  # what protobuf raises depends on where it is damaged
        raise UserError(f"{path}: damaged, or neither an ONNX file nor a TensorRT plan") from error
    if not model.graph.node:
        raise UserError(f"{path}: neither an ONNX file nor a TensorRT plan")
    metadata = {p.key: p.value for p in model.metadata_props if p.key.startswith("dic.")}
    weights: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        weights[kind] += int(numpy_helper.to_array(tensor).size)
    try:
        counted: dict[str, int] | str = dict(flops(model))
    except ValueError as error:
        counted = str(error)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "kind": "ONNX" if metadata else "ONNX, not exported by this project",
        "opset": max(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0
        ),
        "metadata": {key.removeprefix("dic."): value for key, value in metadata.items()},
        "inputs": [_value(value) for value in model.graph.input],
        "outputs": [_value(value) for value in model.graph.output],
        "nodes": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "weights": dict(weights.most_common()),
        "flops": counted,
    }


def _value(value: Any) -> str:
    import onnx

    kind = value.type.tensor_type
    dims = ", ".join(dim.dim_param or str(dim.dim_value) for dim in kind.shape.dim)
    return f"{value.name} {onnx.TensorProto.DataType.Name(kind.elem_type).lower()} [{dims}]"


def _plan(path: Path, kind: str) -> dict[str, Any]:
    facts = {"file": str(path), "bytes": path.stat().st_size, "kind": f"{kind} plan"}
    beside = path.with_name(path.name + ".json")
    if not beside.is_file():
        return facts
    try:
        return facts | {"metadata": json.loads(beside.read_text(encoding="utf-8"))}
    except (OSError, ValueError) as error:
        raise UserError(f"{beside}: damaged ({error})") from error


def told(facts: dict[str, Any]) -> str:
    """The facts for reading."""
    lines = [f"{facts['file']}: {facts['kind']}, {facts['bytes'] / 1e6:.1f} MB"]
    for name, value in facts.get("metadata", {}).items():
        lines.append(f"  {name}: {value}")
    for name in ("inputs", "outputs"):
        lines += [f"  {name[:-1]}: {value}" for value in facts.get(name, [])]
    if "nodes" in facts:
        nodes = ", ".join(f"{count} {kind}" for kind, count in facts["nodes"].items())
        lines.append(f"  {sum(facts['nodes'].values())} nodes (opset {facts['opset']}): {nodes}")
        weights = ", ".join(f"{count:,} {kind}" for kind, count in facts["weights"].items())
        lines.append(f"  weights: {weights}")
        counted = facts["flops"]
        if isinstance(counted, dict):
            counted = f"{sum(counted.values()) / 1e9:.2f} GFLOP a face"
        lines.append(f"  {counted}")
    return "\n".join(lines)


def cli() -> NoReturn:
    run(main, "export")


if __name__ == "__main__":
    cli()
