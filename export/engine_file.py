"""Engine files, read for what they say of themselves: ONNX, TensorRT and TensorRT-RTX plans."""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dic.console import UserError
from dic.engine_file import (
    FORMAT_VERSION,
    METADATA_PREFIX,
    PLAN_MAGICS,
    EngineError,
    read_magic,
    sidecar,
)

if TYPE_CHECKING:
    import onnx

REQUIRED = ("format_version", "precision", "io", "export_error")


class Kind(enum.Enum):
    """What wrote a file."""

    ONNX = "ONNX"
    TENSORRT = "TensorRT plan"
    TENSORRT_RTX = "TensorRT-RTX plan"


KINDS = {"TensorRT": Kind.TENSORRT, "TensorRT-RTX": Kind.TENSORRT_RTX}


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: NumPy dtype name, and sizes without the dynamic batch."""

    name: str
    dtype: str
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(['batch', *map(str, self.sizes)])}]"


@dataclass(frozen=True)
class EngineFile:
    """What a file says of itself.

    Attributes:
        metadata: its `dic.*` entries without the prefix; empty where it has none.
        model: of an ONNX file, without external weights.
    """

    path: Path
    kind: Kind
    metadata: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model: onnx.ModelProto | None

    @property
    def is_ours(self) -> bool:
        return bool(self.metadata)

    @property
    def opset(self) -> int:
        """Of an ONNX file; 0 of a plan."""
        opsets = self.model.opset_import if self.model else []
        return max((o.version for o in opsets if o.domain in ("", "ai.onnx")), default=0)


def read_engine_file(path: Path) -> EngineFile:
    """Read an engine file; of a plan, the JSON beside it.

    Raises:
        UserError: unreadable, damaged, or neither an ONNX file nor a plan.
    """
    try:
        magic = read_magic(path)
    except EngineError as error:
        raise UserError(error) from error
    engine = _plan(path, KINDS[PLAN_MAGICS[magic]]) if magic in PLAN_MAGICS else _onnx(path)
    version = engine.metadata.get("format_version", FORMAT_VERSION)
    if str(version) != str(FORMAT_VERSION):
        raise UserError(
            f"{path}: engine format version {version} is unknown, this toolkit reads "
            f"{FORMAT_VERSION}; upgrade dic-toolkit or export the engine anew"
        )
    lacking = [key for key in REQUIRED if key not in engine.metadata]
    if engine.metadata and lacking:
        raise UserError(f"{path}: its metadata is damaged (no {lacking[0]}); export it anew")
    return engine


def _onnx(path: Path) -> EngineFile:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # what protobuf raises depends on where it is damaged
        raise UserError(f"{path}: damaged, or neither an ONNX file nor a TensorRT plan") from error
    if not model.graph.node:
        raise UserError(f"{path}: neither an ONNX file nor a TensorRT plan")
    _check_external(path, model)
    metadata = {
        entry.key.removeprefix(METADATA_PREFIX): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(METADATA_PREFIX)
    }
    inputs, outputs = (tuple(map(_spec, v)) for v in (model.graph.input, model.graph.output))
    return EngineFile(path, Kind.ONNX, metadata, inputs, outputs, model)


def _check_external(path: Path, model: onnx.ModelProto) -> None:
    """Raise UserError where weights that lie beside a model are not all there."""
    needed: dict[str, int] = {}
    for tensor in model.graph.initializer:
        entry = {e.key: e.value for e in tensor.external_data}
        if "location" in entry:
            end = int(entry.get("offset", 0)) + int(entry.get("length", 0))
            needed[entry["location"]] = max(end, needed.get(entry["location"], 0))
    for location, size in needed.items():
        beside = path.parent / location
        if not beside.is_file():
            raise UserError(f"{beside}: No such file; the weights of {path.name} lie in it")
        if beside.stat().st_size < size:
            raise UserError(f"{beside}: damaged: {path.name} has {size:,} bytes of weights in it")


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    sizes = tuple(dim.dim_value for dim in kind.shape.dim[1:])
    return TensorSpec(value.name, dtype_name(kind.elem_type), sizes)


def dtype_name(number: int) -> str:
    """NumPy's name of an ONNX element type."""
    import onnx

    name = onnx.TensorProto.DataType.Name(number).lower()
    return "float32" if name == "float" else name


def _plan(path: Path, kind: Kind) -> EngineFile:
    beside = sidecar(path)
    if not beside.is_file():
        return EngineFile(path, kind, {}, (), (), None)
    try:
        metadata = json.loads(beside.read_text(encoding="utf-8"))
        inputs, outputs = (
            tuple(TensorSpec(t["name"], t["dtype"], tuple(t["sizes"])) for t in metadata.pop(key))
            for key in ("inputs", "outputs")
        )
        known = metadata["plan"]["sha256"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{beside}: damaged ({error})") from error
    if known != hashlib.sha256(path.read_bytes()).hexdigest():
        raise UserError(f"{beside}: belongs to another plan than {path.name}")
    return EngineFile(path, kind, metadata, inputs, outputs, None)
