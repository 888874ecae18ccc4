"""What an engine is, whatever runs it; and `load_engine`, which picks what runs it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

METADATA_PREFIX = "dic."
FORMAT_VERSION = 1
LQ_SIZE = 16
HEATMAP_SIZE = 32
# A compact DIC trained on synthetic faces; how and with what result is in the JSON beside it.
SHIPPED = Path(__file__).parent / "engines" / "dic-synthetic.onnx"
ZIP = b"PK\x03\x04"  # how PyTorch's checkpoints begin
PLAN_MAGICS = {b"ptrt": "TensorRT", b"ftrt": "TensorRT", b"vtrt": "TensorRT-RTX"}


class EngineError(Exception):
    """An engine cannot be loaded or used; the message is one line and says what to do."""


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


class Engine(Protocol):
    """A loaded engine. Thread-safe: `run` may be called from several threads at once."""

    path: Path
    metadata: Metadata
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    device: str  # "cpu" or "cuda:N"
    backend: str  # what runs it, for people to read: "ONNX Runtime CPUExecutionProvider"

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one batch.

        Args:
            feed: an array for each input, of its dtype and shape; any batch of at least 1.

        Raises:
            ValueError: an input is missing, unknown, or of another dtype or shape.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def load_engine(path: str | Path = SHIPPED, device: str = "auto") -> Engine:
    """Load an engine file.

    Args:
        path: an ONNX file written by `export.onnx`; the shipped one without it.
        device: "auto" (a GPU where one works, else the CPU), "cpu", "cuda" or "cuda:N".

    Raises:
        EngineError: the file is no DIC engine, the device is not to be had, or the engine computes
            other faces there than PyTorch (`runtime.verify`).
    """
    path = Path(path)
    index = parse_device(device)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror or error}") from error
    if magic == ZIP:
        raise EngineError(
            f"{path}: is a checkpoint; make an engine of it with python -m export.onnx"
        )
    if magic in PLAN_MAGICS:
        raise EngineError(
            f"{path}: a {PLAN_MAGICS[magic]} plan, which this version cannot run yet; "
            "give the ONNX file it was built from"
        )
    try:
        from runtime.ort import OnnxRuntimeEngine
    except ModuleNotFoundError as error:
        raise EngineError(
            f"{error.name} is not installed; pip install 'dic-toolkit[cpu]' or 'dic-toolkit[gpu]'"
        ) from error

    from runtime.verify import verify

    engine = OnnxRuntimeEngine(path, device, index)
    if engine.device == "cpu" and engine.metadata.precision == "fp32":
        return engine  # it was checked so when it was exported
    try:
        verify(engine)
    except EngineError as error:
        engine.close()
        if device != "auto" or engine.device == "cpu":
            raise
        log.warning("%s; going on on the CPU", error)
        return load_engine(path, "cpu")
    return engine


def parse_device(device: str) -> int:
    """The GPU's number in a device name, 0 where it has none.

    Raises:
        EngineError: no such kind of device.
    """
    kind, _, number = device.partition(":")
    if device in ("auto", "cpu") or (kind == "cuda" and (device == kind or number.isdecimal())):
        return int(number or 0)
    raise EngineError(f"device {device!r} is none of auto, cpu, cuda, cuda:N")


def check_contract(
    path: Path,
    metadata: Metadata,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
) -> None:
    """Refuse an engine whose inputs or outputs are not those its metadata promises.

    Raises:
        EngineError: names what it has and what it should have.
    """
    size, side, k = LQ_SIZE, LQ_SIZE * metadata.scale, metadata.landmarks
    if metadata.io == "image":
        wanted_input = TensorInfo("image", "uint8", (None, size, size, 3))
        wanted = {TensorInfo("face", "uint8", (None, side, side, 3))}
        if k:
            wanted.add(TensorInfo("landmarks", "float32", (None, k, 2)))
            wanted.add(TensorInfo("scores", "float32", (None, k)))
    else:
        wanted_input = TensorInfo("lq", "float32", (None, 3, size, size))
        every = any(tensor.name == "sr_0" for tensor in outputs)  # --all-steps
        marks = [f"_{i}" for i in range(metadata.steps)] if every else [""]
        wanted = {TensorInfo(f"sr{mark}", "float32", (None, 3, side, side)) for mark in marks}
        if k:
            maps = (None, k, HEATMAP_SIZE, HEATMAP_SIZE)
            wanted |= {TensorInfo(f"heatmap{mark}", "float32", maps) for mark in marks}
    if inputs != (wanted_input,):
        raise EngineError(f"{path}: takes {_listed(inputs)}; a DIC engine takes {wanted_input}")
    if set(outputs) != wanted:
        raise EngineError(f"{path}: gives {_listed(outputs)}; its metadata promises otherwise")


def _listed(tensors: tuple[TensorInfo, ...]) -> str:
    return ", ".join(map(str, tensors)) or "nothing"


def check_feed(inputs: tuple[TensorInfo, ...], feed: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError, in one line, where `feed` does not fit `inputs`."""
    names = {tensor.name for tensor in inputs}
    if set(feed) != names:
        raise ValueError(f"the engine takes {_listed(inputs)}, not {sorted(feed)}")
    for tensor in inputs:
        array = feed[tensor.name]
        fits = array.dtype.name == tensor.dtype and array.ndim == len(tensor.shape)
        fits = fits and all(
            have == want or (want is None and have > 0)
            for have, want in zip(array.shape, tensor.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"the engine takes {tensor}, not {array.dtype} {list(array.shape)}")
