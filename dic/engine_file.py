"""What an engine file says of itself: names, metadata, and how its kind is told.

ONNX files carry the metadata as `metadata_props` with the prefix `dic.`; a plan has the same as
JSON beside it (`sidecar`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

METADATA_PREFIX = "dic."
FORMAT_VERSION = 1
CHECKPOINT_MAGIC = b"PK\x03\x04"  # PyTorch's checkpoints are ZIP files
PLAN_MAGICS = {b"ptrt": "TensorRT", b"ftrt": "TensorRT", b"vtrt": "TensorRT-RTX"}


def sidecar(plan: Path) -> Path:
    """The JSON beside a plan."""
    return plan.with_name(f"{plan.name}.json")


class EngineError(Exception):
    """An engine cannot be loaded or used; the message is one line and says what to do."""


def read_magic(path: Path) -> bytes:
    """The first four bytes of an engine file, by which its kind is told.

    Raises:
        EngineError: unreadable, or a checkpoint.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror or error}") from error
    if magic == CHECKPOINT_MAGIC:
        raise EngineError(
            f"{path}: is a checkpoint; make an engine of it with python -m export.onnx"
        )
    return magic


@dataclass(frozen=True)
class TensorInfo:
    """One input or output: its name, NumPy dtype name and shape; None is the dynamic batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("batch" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} [{sizes}]"


@dataclass(frozen=True)
class Metadata:
    """What an engine says of itself.

    Attributes:
        format_version: of this metadata; others than FORMAT_VERSION are refused.
        io: "image" (uint8 NHWC pictures) or "tensor" (normalised float32 NCHW).
        steps: how many recurrent steps are unrolled in it.
        precision: "fp32", "fp16", "bf16" or "int8".
        target: "gpu" or "cpu", what its graph was written for.
        landmarks: K, or 0 where it gives none.
        scale: output pixels an input pixel, along each side.
        rest: the other entries, without the prefix.
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
        """From an engine file's `dic.*` entries.

        Raises:
            EngineError: not a DIC engine, or of a format version unknown here.
        """
        own = {
            key.removeprefix(METADATA_PREFIX): value
            for key, value in entries.items()
            if key.startswith(METADATA_PREFIX)
        }
        version = own.get("format_version")
        if version is None:
            raise EngineError(
                f"{path}: not a DIC engine (no {METADATA_PREFIX}* metadata); "
                "make one with python -m export.onnx"
            )
        if version != str(FORMAT_VERSION):
            raise EngineError(
                f"{path}: engine format version {version} is unknown, this runtime reads "
                f"{FORMAT_VERSION}; upgrade dic-toolkit or export the engine anew"
            )
        try:
            return Metadata(
                format_version=int(own.pop("format_version")),
                io=own.pop("io"),
                steps=int(own.pop("steps")),
                precision=own.pop("precision"),
                target=own.pop("target"),
                landmarks=int(own.pop("landmarks")),
                scale=int(own.pop("scale")),
                rest=own,
            )
        except (KeyError, ValueError) as error:
            raise EngineError(f"{path}: its metadata is damaged ({error})") from error
