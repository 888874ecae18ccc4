"""The metadata of an engine, and the detection of its file type.

An ONNX file stores the metadata in `metadata_props` under keys that begin with `dic.`; a TensorRT
plan has the same entries in a JSON file beside it (`sidecar`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dic.console import UserError
from dic.documents import parse_json
from dic.files import open_regular

METADATA_PREFIX = "dic."
FORMAT_VERSION = 1
CHECKPOINT_MAGIC = b"PK\x03\x04"  # PyTorch's checkpoints are ZIP files
PLAN_MAGICS = {b"ptrt": "TensorRT", b"ftrt": "TensorRT", b"vtrt": "TensorRT-RTX"}


def one_line(text: object) -> str:
    """A file's text as an error shows it: in one line, and not all of a long one."""
    return " ".join(str(text).split())[:80]


def sidecar(plan: Path) -> Path:
    """Return the path of a plan's metadata file: `dic.trt` → `dic.trt.json`."""
    return plan.with_name(f"{plan.name}.json")


def engine_files(path: Path) -> list[Path]:
    """An engine's file, and those beside it that belong to it if they are there."""
    beside = (sidecar(path), path.with_name(f"{path.name}.data"))
    return [path, *(file for file in beside if file.exists())]


class EngineError(Exception):
    """An engine cannot be loaded or run. The message is one line and says what to do."""


def read_sidecar(path: Path, plan: bytes) -> dict[str, Any] | None:
    """Read a plan's metadata file; None if there is none.

    Args:
        plan: content of the plan, compared with the SHA-256 in the file.

    Raises:
        EngineError: the file is damaged or belongs to another plan.
    """
    file = sidecar(path)
    if not file.is_file():
        return None
    try:
        content = dict(parse_json(file.read_text(encoding="utf-8")).items())
        digest = content.get("plan", {}).get("sha256")
    except (OSError, ValueError, AttributeError) as error:
        raise EngineError(f"{file}: is damaged ({error}); build the plan again") from error
    if digest != hashlib.sha256(plan).hexdigest():
        raise EngineError(
            f"{file}: belongs to another plan than {path.name} (SHA-256 differs); build the plan "
            "again"
        )
    return content


def read_magic(path: Path) -> bytes:
    """Return the first four bytes of an engine file, which identify its type.

    Raises:
        EngineError: the file cannot be read, or is a checkpoint.
    """
    try:
        with open_regular(path) as file:
            magic = file.read(4)
    except UserError as error:
        raise EngineError(str(error)) from error
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror or error}") from error
    if magic == CHECKPOINT_MAGIC:
        raise EngineError(
            f"{path}: is a checkpoint, not an engine; export it with python -m export.onnx"
        )
    return magic


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an engine.

    Attributes:
        name: of the tensor.
        dtype: NumPy dtype name, e.g. "float32".
        shape: sizes; None is the dynamic batch dimension.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("batch" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} [{sizes}]"


@dataclass(frozen=True)
class Metadata:
    """The metadata of an engine.

    Attributes:
        format_version: of the metadata; versions other than FORMAT_VERSION are refused.
        io: "image" (uint8 NHWC images) or "tensor" (normalised float32 NCHW).
        steps: number of unrolled recurrent steps.
        precision: "fp32", "fp16", "bf16" or "int8".
        target: "gpu" or "cpu", the hardware that the graph was optimised for.
        landmarks: K, the number of landmarks per face; 0 if the engine does not output any.
        scale: upscaling factor along each side.
        rest: all other entries, without the prefix.
    """

    format_version: int
    io: str
    steps: int
    precision: str
    target: str
    landmarks: int
    scale: int
    rest: Mapping[str, str]

    @staticmethod
    def parse(path: Path, entries: Mapping[str, str]) -> Metadata:
        """Parse the `dic.*` entries of an engine.

        Args:
            path: of the engine, for error messages.
            entries: all metadata entries; those without the prefix are ignored.

        Raises:
            EngineError: not a DIC engine, an unsupported format version, or damaged metadata.
        """
        fields = {
            key.removeprefix(METADATA_PREFIX): value
            for key, value in entries.items()
            if key.startswith(METADATA_PREFIX)
        }
        version = fields.get("format_version")
        if version is None:
            raise EngineError(
                f"{path}: not a DIC engine (no {METADATA_PREFIX}* metadata); "
                "make one with python -m export.onnx"
            )
        if version != str(FORMAT_VERSION):
            raise EngineError(
                f"{path}: engine format version {one_line(version)} is not supported, only "
                f"{FORMAT_VERSION} is; upgrade dic-toolkit or export the engine again"
            )
        try:
            return Metadata(
                format_version=int(fields.pop("format_version")),
                io=fields.pop("io"),
                steps=int(fields.pop("steps")),
                precision=fields.pop("precision"),
                target=fields.pop("target"),
                landmarks=int(fields.pop("landmarks")),
                scale=int(fields.pop("scale")),
                rest=fields,
            )
        except (KeyError, ValueError) as error:
            raise EngineError(
                f"{path}: damaged metadata ({error}); export the engine again"
            ) from error
