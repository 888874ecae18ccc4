"""Read an engine file's kind, metadata, inputs and outputs: ONNX files and TensorRT(-RTX) plans."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dic.console import UserError
from dic.engine_file import (
    FORMAT_VERSION,
    METADATA_PREFIX,
    PLAN_MAGICS,
    EngineError,
    one_line,
    read_magic,
    read_sidecar,
    sidecar,
)

if TYPE_CHECKING:
    import onnx

REQUIRED = ("format_version", "precision", "io", "export_error")


class Kind(enum.Enum):
    """The format of an engine file."""

    ONNX = "ONNX"
    TENSORRT = "TensorRT plan"
    TENSORRT_RTX = "TensorRT-RTX plan"


KINDS = {"TensorRT": Kind.TENSORRT, "TensorRT-RTX": Kind.TENSORRT_RTX}


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: its name, NumPy dtype name, and sizes without the batch dimension."""

    name: str
    dtype: str
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(['batch', *map(str, self.sizes)])}]"


@dataclass(frozen=True)
class EngineFile:
    """An engine file's description.

    Attributes:
        metadata: its `dic.*` entries without the prefix; empty if it has none.
        model: the ONNX model without external weights; None for a plan.
    """

    path: Path
    kind: Kind
    metadata: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model: onnx.ModelProto | None

    @property
    def is_ours(self) -> bool:
        """Whether this toolkit wrote the file."""
        return bool(self.metadata)

    @property
    def opset(self) -> int:
        """The ONNX opset version; 0 for a plan."""
        opsets = self.model.opset_import if self.model else []
        return max((o.version for o in opsets if o.domain in ("", "ai.onnx")), default=0)


def read_engine_file(path: Path) -> EngineFile:
    """Read the description of an ONNX file, or of a plan from the JSON file next to it.

    Raises:
        UserError: the file is unreadable, damaged, of an unknown format version, or neither an
            ONNX file nor a plan; or a file of external weights is missing, too short or outside the
            engine's folder.
    """
    try:
        magic = read_magic(path)
    except EngineError as error:
        raise UserError(error) from error
    engine = _plan(path, KINDS[PLAN_MAGICS[magic]]) if magic in PLAN_MAGICS else _onnx(path)
    version = engine.metadata.get("format_version", FORMAT_VERSION)
    if str(version) != str(FORMAT_VERSION):
        raise UserError(
            f"{path}: engine format version {one_line(version)} is unknown, this toolkit reads "
            f"{FORMAT_VERSION}; upgrade dic-toolkit or export the engine again"
        )
    missing = [key for key in REQUIRED if key not in engine.metadata]
    if engine.metadata and missing:
        raise UserError(f"{path}: metadata is damaged (no {missing[0]}); export it again")
    return engine


def _onnx(path: Path) -> EngineFile:
    import onnx

    with damage_named(path):
        return _of_model(path, onnx.load(str(path), load_external_data=False))


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Raise UserError for whatever else an ONNX model raises that is damaged.

    Protobuf's exception depends on where the file is damaged; its texts may be bytes, and nodes may
    have no inputs.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path}: damaged, or neither an ONNX file nor a TensorRT plan; export it again"
        ) from error


def _of_model(path: Path, model: onnx.ModelProto) -> EngineFile:
    if not model.graph.node:
        raise UserError(
            f"{path}: neither an ONNX file nor a TensorRT plan; give a file that python -m "
            "export.onnx or export.tensorrt wrote"
        )
    _check_external(path, model)
    metadata = {
        entry.key.removeprefix(METADATA_PREFIX): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(METADATA_PREFIX)
    }
    inputs, outputs = (tuple(map(_spec, v)) for v in (model.graph.input, model.graph.output))
    return EngineFile(path, Kind.ONNX, metadata, inputs, outputs, model)


def _check_external(path: Path, model: onnx.ModelProto) -> None:
    """Raise UserError if a file of external weights is missing, too short or in another folder."""
    needed: dict[str, int] = {}
    for tensor in model.graph.initializer:
        entry = {e.key: e.value for e in tensor.external_data}
        if "location" in entry:
            end = int(entry.get("offset", 0)) + int(entry.get("length", 0))
            needed[entry["location"]] = max(end, needed.get(entry["location"], 0))
    for location, size in needed.items():
        if Path(location).is_absolute() or ".." in Path(location).parts:
            raise UserError(
                f"{path}: refused, names {location} outside its folder as its weights; export it "
                "again"
            )
        weights = path.parent / location
        if not weights.is_file():
            raise UserError(
                f"{weights}: No such file; copy it too, it holds the weights of {path.name}"
            )
        if weights.stat().st_size < size:
            raise UserError(
                f"{weights}: damaged: shorter than the {size:,} bytes of weights that "
                f"{path.name} refers to; export it again"
            )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    sizes = tuple(dim.dim_value for dim in kind.shape.dim[1:])
    return TensorSpec(value.name, dtype_name(kind.elem_type), sizes)


def dtype_name(number: int) -> str:
    """The NumPy name of an ONNX element type, such as "float32"."""
    import onnx

    name = onnx.TensorProto.DataType.Name(number).lower()
    return "float32" if name == "float" else name


def _plan(path: Path, kind: Kind) -> EngineFile:
    try:
        metadata = read_sidecar(path, path.read_bytes())
    except EngineError as error:
        raise UserError(error) from error
    if metadata is None:
        return EngineFile(path, kind, {}, (), (), None)
    try:
        inputs, outputs = (
            tuple(TensorSpec(t["name"], t["dtype"], tuple(t["sizes"])) for t in metadata.pop(key))
            for key in ("inputs", "outputs")
        )
        if not isinstance(metadata.get("samples", ""), str):
            raise TypeError("samples are no text")
    except (LookupError, TypeError) as error:
        raise UserError(f"{sidecar(path)}: is damaged ({error}); build the plan again") from error
    return EngineFile(path, kind, metadata, inputs, outputs, None)
