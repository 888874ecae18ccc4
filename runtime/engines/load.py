"""Loading an engine: what can run it here, in order of speed, and the first that does."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from dic.engine_file import PLAN_MAGICS, EngineError, Metadata, read_magic
from runtime.engines.contract import SHIPPED, Engine

log = logging.getLogger(__name__)

Opener = Callable[[], Engine]


class NotInstalledError(EngineError):
    """What would run an engine is not on this machine."""


def load_engine(
    path: str | Path = SHIPPED,
    device: str = "auto",
    threads: int | None = None,
    lanes: int = 1,
) -> Engine:
    """Load an engine file. What runs it, and why not something faster, is logged.

    Args:
        path: an ONNX file written by `export.onnx`, or a plan by `export.tensorrt`; the shipped
            engine without it.
        device: "cuda" or "cuda:N" (an NVIDIA GPU), "cpu" (ONNX Runtime's own CPU provider),
            "openvino" (on the CPU), or "auto", the fastest of them that works here.
        threads: of a CPU that it uses; all cores without it.
        lanes: runs at once among which a CPU's threads are shared. One gives the fastest face; as
            many as threads give most faces a second, be it that as many threads call it or that
            it gets batches, whose faces are spread over the lanes. The engine's `lanes` says how
            many it has: GPUs have one.

    Raises:
        EngineError: the file is no DIC engine, the device is not to be had, or the engine computes
            other faces there than PyTorch (`runtime.engines.verify`).
        ValueError: `threads` or `lanes` are fewer than one.
    """
    if min(lanes, 1 if threads is None else threads) < 1:
        raise ValueError(f"threads and lanes are at least 1, not {threads} and {lanes}")
    path = Path(path)
    failed: list[EngineError] = []
    for opener in _openers(path, device, threads, lanes):
        try:
            engine = opener()
        except EngineError as error:
            failed.append(error)
            continue
        for reason in failed:
            # What is not installed is no fault; what is and fails must not fall back unheard.
            level = logging.INFO if isinstance(reason, NotInstalledError) else logging.WARNING
            log.log(level, "%s", reason)
        log.info("%s: on %s by %s", path, engine.device, engine.backend)
        if engine.device == "cpu" and engine.metadata.precision != "fp32":
            log.warning(
                "%s: an %s engine is made for GPUs and slower on a CPU than fp32 (int8 2 to 7 "
                "times); for this machine export the checkpoint with --target cpu",
                path,
                engine.metadata.precision,
            )
        return engine
    # What is not installed is told only where nothing was.
    tried = [reason for reason in failed if not isinstance(reason, NotInstalledError)]
    raise EngineError("; ".join(map(str, tried or failed)))


def _openers(path: Path, device: str, threads: int | None, lanes: int) -> list[Opener]:
    """What may run an engine file, by its kind and the device asked for, the fastest first.

    Raises:
        EngineError: the file is none, or nothing runs it on such a device.
    """
    kind, index = parse_device(device)
    magic = read_magic(path)
    if magic in PLAN_MAGICS:
        if kind not in ("auto", "cuda"):
            raise EngineError(
                f"{path}: a {PLAN_MAGICS[magic]} plan runs on NVIDIA GPUs only; for {device} give "
                "the ONNX file it was built from"
            )
        return [_plan(path, PLAN_MAGICS[magic], index)]
    from runtime.engines.onnx_file import read_metadata

    metadata = Metadata.parse(path, read_metadata(path))
    return list(_onnx(path, metadata, kind, index, threads, lanes))


def parse_device(device: str) -> tuple[str, int]:
    """The kind of a device, and a GPU's number, 0 where it has none.

    Raises:
        EngineError: no such kind of device.
    """
    kind, _, number = device.partition(":")
    plain = device in ("auto", "cpu", "openvino", "cuda")
    if plain or (kind == "cuda" and number.isdecimal()):
        return kind, int(number or 0)
    raise EngineError(f"device {device!r} is none of auto, cpu, openvino, cuda, cuda:N")


def _onnx(
    path: Path, metadata: Metadata, kind: str, index: int, threads: int | None, lanes: int
) -> Iterator[Opener]:
    """What may run an ONNX file on a kind of device, the fastest first."""

    def onnxruntime(provider: str) -> Engine:
        from runtime.engines.onnxruntime import CPU, OnnxRuntimeEngine

        engine = OnnxRuntimeEngine(path, metadata, provider, index, threads, lanes)
        # On the CPU in fp32 it was checked when it was exported.
        return _verified(engine, quick=provider == CPU and metadata.precision == "fp32")

    def openvino() -> Engine:
        try:
            from runtime.engines.openvino import OpenVinoEngine
        except (ImportError, RuntimeError) as error:
            raise EngineError(f"openvino is installed but does not load: {error}") from error

        return _verified(OpenVinoEngine(path, metadata, threads, lanes))

    has_openvino = importlib.util.find_spec("openvino") is not None
    if importlib.util.find_spec("onnxruntime") is None:
        if kind == "openvino" or (kind == "auto" and has_openvino):
            yield openvino
        else:
            yield _missing(
                "onnxruntime is not installed; pip install 'dic-toolkit[cpu]' or 'dic-toolkit[gpu]'"
            )
        return
    try:
        from runtime.engines.onnxruntime import CPU, GPU, OPENVINO, available
    except (ImportError, RuntimeError) as error:
        raise EngineError(f"onnxruntime is installed but does not load: {error}") from error

    if kind in ("auto", "cuda"):
        for provider in available(GPU):
            yield partial(onnxruntime, provider)
        if not available(GPU):
            yield _missing(
                "no GPU: this ONNX Runtime has no provider for one (dic-toolkit[gpu] has)"
            )
    # Measured: on CPUs, graphs with --target cpu are faster in ONNX Runtime, others in OpenVINO
    # (benchmarks/NOTES.md).
    if kind == "openvino" or (kind == "auto" and metadata.target != "cpu"):
        if available((OPENVINO,)):
            yield partial(onnxruntime, OPENVINO)
        elif has_openvino:
            yield openvino
        elif kind == "openvino":
            yield _missing("openvino is not installed; pip install 'dic-toolkit[openvino]'")
        else:
            yield _missing("no OpenVINO, which runs it faster here (dic-toolkit[openvino] has it)")
    if kind in ("auto", "cpu"):
        yield partial(onnxruntime, CPU)


def _plan(path: Path, label: str, index: int) -> Opener:
    def opener() -> Engine:
        from runtime.engines.tensorrt.engine import TensorRTEngine

        engine = TensorRTEngine(path, label, index)
        _verified(engine)
        if engine.metadata.rest.get("verified") == "no":
            engine.record_verified()
        return engine

    return opener


def _verified(engine: Engine, quick: bool = False) -> Engine:
    """The engine, if it computes what PyTorch computed; closed otherwise."""
    from runtime.engines.verify import verify

    try:
        verify(engine, quick)
    except BaseException:
        engine.close()
        raise
    return engine


def _missing(reason: str) -> Opener:
    def opener() -> Engine:
        raise NotInstalledError(reason)

    return opener
