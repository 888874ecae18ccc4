"""Loading an engine: try the libraries that can run it, fastest first."""

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
    """A library that could run the engine is not installed."""


def load_engine(
    path: str | Path = SHIPPED,
    device: str = "auto",
    threads: int | None = None,
    lanes: int = 1,
) -> Engine:
    """Load and verify an engine. Logs what runs it, and why no faster library does.

    Args:
        path: an ONNX file written by `export.onnx`, or a plan written by `export.tensorrt`; by
            default the shipped engine.
        device: "cuda" or "cuda:N" (an NVIDIA GPU), "cpu" (ONNX Runtime's CPU provider),
            "openvino" (on the CPU), or "auto", the fastest of them that works on this machine.
        threads: CPU threads to use; None uses all cores.
        lanes: parallel runs that share the CPU threads. 1 gives the lowest latency; as many lanes
            as threads give the highest throughput, whether several threads call `run` or one
            passes batches, whose faces are then distributed over the lanes. `Engine.lanes` is the
            number in effect: on GPUs always 1 for ONNX files, and 2 for plans, where one lane's
            batch is copied while the other's runs.

    Raises:
        EngineError: the file is not a DIC engine, the device is not available, or the results
            differ from PyTorch's by more than the engine's limits (`runtime.engines.verify`).
        ValueError: `threads` or `lanes` is less than 1.
    """
    if min(lanes, 1 if threads is None else threads) < 1:
        raise ValueError(
            f"threads and lanes must be at least 1, got threads={threads} and lanes={lanes}"
        )
    path = Path(path)
    failed: list[EngineError] = []
    for opener in _openers(path, device, threads, lanes):
        try:
            engine = opener()
        except EngineError as error:
            failed.append(error)
            continue
        for reason in failed:
            # An uninstalled library is expected; falling back from an installed one is not.
            level = logging.INFO if isinstance(reason, NotInstalledError) else logging.WARNING
            log.log(level, "%s", reason)
        log.info("%s: runs on %s with %s", path, engine.device, engine.backend)
        if engine.device == "cpu" and engine.metadata.precision != "fp32":
            log.warning(
                "%s: an %s engine is meant for GPUs and is slower than fp32 on a CPU (int8 by 2 to "
                "7 times); for this machine export the checkpoint with --target cpu",
                path,
                engine.metadata.precision,
            )
        return engine
    # Libraries that are not installed are reported only if no other was tried.
    tried = [reason for reason in failed if not isinstance(reason, NotInstalledError)]
    raise EngineError("; ".join(map(str, tried or failed)))


def _openers(path: Path, device: str, threads: int | None, lanes: int) -> list[Opener]:
    """Functions that open an engine file on a device, fastest first.

    Raises:
        EngineError: the file is not an engine, or its kind cannot run on the device.
    """
    kind, index = parse_device(device)
    magic = read_magic(path)
    if magic in PLAN_MAGICS:
        if kind not in ("auto", "cuda"):
            raise EngineError(
                f"{path}: a {PLAN_MAGICS[magic]} plan runs only on NVIDIA GPUs; for --device "
                f"{device} use the ONNX file it was built from"
            )
        return [_plan(path, PLAN_MAGICS[magic], index)]
    from runtime.engines.onnx_file import read_metadata

    metadata = Metadata.parse(path, read_metadata(path))
    return list(_onnx(path, metadata, kind, index, threads, lanes))


def parse_device(device: str) -> tuple[str, int]:
    """Split a device such as "cuda:1" into its kind and its GPU index (0 by default).

    Raises:
        EngineError: the device is unknown.
    """
    kind, _, number = device.partition(":")
    plain = device in ("auto", "cpu", "openvino", "cuda")
    if plain or (kind == "cuda" and number.isdecimal()):
        return kind, int(number or 0)
    raise EngineError(f"unknown device {device!r}; use auto, cpu, openvino, cuda or cuda:N")


def _onnx(
    path: Path, metadata: Metadata, kind: str, index: int, threads: int | None, lanes: int
) -> Iterator[Opener]:
    """Functions that open an ONNX file on a kind of device, fastest first."""

    def onnxruntime(provider: str) -> Engine:
        from runtime.engines.onnxruntime import CPU, OnnxRuntimeEngine

        engine = OnnxRuntimeEngine(path, metadata, provider, index, threads, lanes)
        # The export checked the same graph on the same provider, so a quick check suffices.
        return _verified(engine, quick=provider == CPU and metadata.precision == "fp32")

    def openvino() -> Engine:
        try:
            from runtime.engines.openvino import OpenVinoEngine
        except (ImportError, RuntimeError) as error:
            raise _not_importable("openvino", error) from error

        return _verified(OpenVinoEngine(path, metadata, threads, lanes))

    has_openvino = importlib.util.find_spec("openvino") is not None
    if importlib.util.find_spec("onnxruntime") is None:
        if kind == "openvino" or (kind == "auto" and has_openvino):
            yield openvino
        else:
            yield _not_installed(
                "onnxruntime is not installed; pip install 'dic-toolkit[cpu]' or 'dic-toolkit[gpu]'"
            )
        return
    try:
        from runtime.engines.onnxruntime import CPU, GPU, OPENVINO, available
    except (ImportError, RuntimeError) as error:
        raise _not_importable("onnxruntime", error) from error

    if kind in ("auto", "cuda"):
        for provider in available(GPU):
            yield partial(onnxruntime, provider)
        if not available(GPU):
            yield _not_installed(
                "no GPU: this ONNX Runtime has no CUDA provider; pip install 'dic-toolkit[gpu]'"
            )
    # Measured in benchmarks/NOTES.md: graphs exported with --target cpu are faster in ONNX
    # Runtime, others in OpenVINO.
    if kind == "openvino" or (kind == "auto" and metadata.target != "cpu"):
        if available((OPENVINO,)):
            yield partial(onnxruntime, OPENVINO)
        elif has_openvino:
            yield openvino
        elif kind == "openvino":
            yield _not_installed("openvino is not installed; pip install 'dic-toolkit[openvino]'")
        else:
            yield _not_installed(
                "openvino, which would be faster here, is not installed; "
                "pip install 'dic-toolkit[openvino]'"
            )
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
    """The engine after verification; closes it if verification fails."""
    from runtime.engines.verify import verify

    try:
        verify(engine, quick)
    except BaseException:
        engine.close()
        raise
    return engine


def _not_installed(reason: str) -> Opener:
    def opener() -> Engine:
        raise NotInstalledError(reason)

    return opener


def _not_importable(library: str, error: Exception) -> EngineError:
    return EngineError(f"{library} is installed but cannot be imported ({error}); reinstall it")
