"""An engine's time by operator, from ONNX Runtime's profiler."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime

from dic.console import UserError

RUNS = 5


@dataclass(frozen=True)
class Operator:
    """All nodes of one kind and size in one run.

    Attributes:
        kind: the operator, for convolutions with kernel, channels and groups.
        calls: number of nodes.
        milliseconds: their total time; profiling adds a few microseconds per node.
        gflop: their total of 10⁹ floating-point operations; only convolutions and matrix products
            are counted.
        gigabytes: 10⁹ bytes read and written, each tensor once.
    """

    kind: str
    calls: int
    milliseconds: float
    gflop: float
    gigabytes: float

    @property
    def rate(self) -> float:
        """10⁹ operations per second."""
        return 1000 * self.gflop / self.milliseconds

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.gflop / self.gigabytes if self.gigabytes else 0.0


def profile(path: Path, providers: list[str], batch: int = 1) -> list[Operator]:
    """Profile an ONNX file with random inputs.

    Args:
        providers: ONNX Runtime's execution providers.
        batch: faces per run.

    Returns:
        the operators, means over `RUNS` runs; those that take longest first.

    Raises:
        UserError: ONNX Runtime cannot load the file.
    """
    with TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # its exceptions have no common base class
            raise UserError(
                f"{path}: ONNX Runtime cannot load it for profiling: {error}"
            ) from error
        rng = np.random.default_rng(0)
        for _ in range(RUNS + 1):
            session.run(None, {i.name: _random(rng, i, batch) for i in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text())
    return summed(events, RUNS)


def summed(events: list[dict[str, Any]], runs: int) -> list[Operator]:
    """Sum ONNX Runtime's events of `runs + 1` runs by operator, without the first run."""
    nodes = [
        e for e in events if e.get("cat") == "Node" and str(e["name"]).endswith("_kernel_time")
    ]
    nodes = nodes[len(nodes) // (runs + 1) :]
    totals: dict[str, np.ndarray[Any, Any]] = {}
    for event in nodes:
        args = event["args"]
        kind, flop = _described(args)
        moved = sum(
            int(args.get(f"{part}_size", 0)) for part in ("activation", "parameter", "output")
        )
        row = totals.setdefault(kind, np.zeros(4))
        row += (1 / runs, event["dur"] / 1000 / runs, flop / 1e9 / runs, moved / 1e9 / runs)
    found = [
        Operator(kind, round(calls), float(ms), float(gflop), float(gigabytes))
        for kind, (calls, ms, gflop, gigabytes) in totals.items()
    ]
    return sorted(found, key=lambda one: -one.milliseconds)


def _described(args: Mapping[str, Any]) -> tuple[str, float]:
    """A node's kind and its floating-point operations."""
    name = str(args["op_name"])
    shapes, out = (_shapes(args.get(f"{side}_type_shape", [])) for side in ("input", "output"))
    if "Conv" in name and len(shapes) > 1 and len(shapes[1]) == 4 and out:
        x, weight = shapes[0], shapes[1]
        kernel = f"{weight[2]}×{weight[3]}"
        if "Transpose" in name:
            groups = 1
            flop = 2.0 * np.prod(x) * np.prod(weight[1:])
        else:
            groups = x[1] // weight[1]
            flop = 2.0 * np.prod(out[0]) * np.prod(weight[1:])
        sizes = f"{x[1]}→{out[0][1]} at {out[0][2]}×{out[0][3]}"
        in_groups = f", {groups} groups" if groups > 1 else ""
        return f"{name} {kernel}, {sizes}{in_groups}", flop
    if name in ("MatMul", "Gemm") and len(shapes) > 1 and out:
        return name, 2.0 * np.prod(out[0]) * shapes[0][-1]
    return name, 0.0


def _shapes(typed: list[dict[str, list[int]]]) -> list[list[int]]:
    return [next(iter(one.values()), []) for one in typed]


def _random(rng: np.random.Generator, node: Any, batch: int) -> Any:
    shape = [batch, *node.shape[1:]]
    if node.type == "tensor(uint8)":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.random(shape, dtype=np.float32) - 0.5
