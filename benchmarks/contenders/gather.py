"""Collect the contenders of a run.

They are PyTorch eager (the reference), engines, and peers, which are other ways to run the same
network. All map pictures to an engine's outputs, so that their results can be compared.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dic.console import UserError
from dic.cores import cores
from dic.landmarks import decode
from dic.pixels import normalise, to_levels
from dic.sizes import LQ_SIZE
from export.graph.interface import Io, Signature, wrap
from runtime.engines.contract import Engine
from runtime.engines.load import load_engine
from train.checkpoint import Checkpoint
from train.model.network import DIC

REFERENCE = "PyTorch eager"

Faces = NDArray[np.uint8]
Outputs = dict[str, NDArray[Any]]
Run = Callable[[Faces], Outputs]


@dataclass(frozen=True)
class Contender:
    """A way to restore faces.

    Attributes:
        name: in tables and files; the same in every run, so that runs can be compared.
        run: maps (B, 16, 16, 3) uint8 RGB to an engine's outputs: `face` (B, 128, 128, 3) uint8,
            and `landmarks` (B, K, 2) and `scores` (B, K) if it computes them.
        backend: library and version, for display.
        device: "cpu" or "cuda:N".
        precision: the precision it computes in.
        peer: measured for comparison only.
        engine: the loaded engine; None for PyTorch.
        gpu_time: runs once, and returns the milliseconds between two CUDA events around the network
            in the stream that runs it, without copies; None on CPUs, and for libraries whose stream
            is not accessible (ONNX Runtime).
    """

    name: str
    run: Run
    backend: str
    device: str
    precision: str = "fp32"
    peer: bool = False
    engine: Engine | None = None
    gpu_time: Callable[[Faces], float] | None = None

    @property
    def max_batch(self) -> int | None:
        """The largest batch; None if there is no limit."""
        return self.engine.max_batch if self.engine else None


def pytorch(
    network: DIC,
    landmarks: bool = True,
    device: str = "cpu",
    name: str = REFERENCE,
    convert: Callable[[Any], Any] = lambda module: module,
    precision: str = "fp32",
) -> Contender:
    """A copy of the PyTorch network as a contender; a peer if `name` is not `REFERENCE`.

    Args:
        landmarks: output landmarks and scores too.
        convert: applied to the module, for example to compile it.
    """
    signature = Signature(Io.IMAGE, network.config.steps, landmarks)
    module = convert(wrap(copy.deepcopy(network), signature).to(device))

    def run_there(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            given: tuple[torch.Tensor, ...] = module(image)
        return given

    def run(image: Faces) -> Outputs:
        given = run_there(torch.from_numpy(image).to(device))
        return dict(zip(signature.outputs, (t.cpu().numpy() for t in given), strict=True))

    return Contender(
        name,
        run,
        f"PyTorch {torch.__version__}",
        device,
        precision,
        peer=name != REFERENCE,
        gpu_time=None if device == "cpu" else partial(between_events, run_there, device),
    )


def between_events(run: Callable[[torch.Tensor], object], device: str, image: Faces) -> float:
    """Milliseconds that a GPU takes for what `run` queues in PyTorch's current stream."""
    with torch.cuda.device(device):
        given = torch.from_numpy(image).to(device)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        run(given)
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last))


def as_engine(engine: Engine) -> Run:
    """A contender's `run` for an engine; with tensor I/O it normalises, rounds and decodes."""
    if engine.metadata.io == "image":
        return lambda image: engine.run(_feed(engine, image))
    last = engine.metadata.steps - 1

    def run(image: Faces) -> Outputs:
        given = engine.run(_feed(engine, image))
        sr = given["sr"] if "sr" in given else given[f"sr_{last}"]
        faces: Outputs = {"face": to_levels(sr)}
        if f"heatmap_{last}" in given:
            points, scores = decode(given[f"heatmap_{last}"])
            faces |= {"landmarks": points, "scores": scores}
        return faces

    return run


def _feed(engine: Engine, image: Faces) -> dict[str, NDArray[Any]]:
    return {"image": image} if engine.metadata.io == "image" else {"lq": normalise(image)}


def engine_contender(
    path: Path, device: str, opened: ExitStack, name: str = "", peer: bool = False
) -> Contender:
    """Load an engine file and run it as the runtime does.

    On a CPU, a batch with at least as many faces as cores runs with one face per core
    (`load_engine(lanes=…)`, like many pictures in `runtime.infer`); smaller batches use all cores.

    Args:
        device: as for `load_engine`.
        opened: the stack that closes the engine.
        name: defaults to the file's name.
        peer: a peer; it always uses all cores for one run.

    Raises:
        EngineError: the engine cannot be loaded on the device.
    """
    engine = opened.enter_context(load_engine(path, device))
    one = several = as_engine(engine)
    timed: Callable[[Any], float] | None = getattr(engine, "gpu_milliseconds", None)
    if engine.device == "cpu" and cores() > 1 and not peer:
        several = as_engine(opened.enter_context(load_engine(path, device, lanes=cores())))
    return Contender(
        name or path.name,
        lambda image: (several if 1 < len(image) >= cores() else one)(image),
        engine.backend,
        engine.device,
        engine.metadata.precision,
        peer,
        engine,
        None if timed is None else lambda image: timed(_feed(engine, image)),
    )


def gather(
    checkpoint: Checkpoint, paths: Sequence[Path], device: str, with_peers: bool, opened: ExitStack
) -> tuple[list[Contender], dict[str, str]]:
    """Load all contenders: the reference first, then engines, then peers.

    On a GPU this switches off PyTorch's TF32 for the process, so that fp32 is fp32.

    Args:
        checkpoint: the reference.
        paths: engine files.
        device: as for `load_engine`.
        with_peers: include peers.
        opened: the stack that closes engines and removes temporary files.

    Returns:
        the contenders, and the reason for each peer that is missing, by name.

    Raises:
        UserError: two engines have the same file name, or an engine has another number of steps.
        EngineError: an engine cannot be loaded.
    """
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        raise UserError("--engine: two files have the same name; results use names, so rename one")
    engines = []
    for path in paths:
        engine = engine_contender(path, device, opened)
        assert engine.engine is not None
        made_for, taken = engine.engine.metadata.steps, checkpoint.network.config.steps
        if made_for not in (0, taken):  # 0: a plan without metadata
            raise UserError(
                f"{path}: has {made_for} steps and the reference {taken}; use --steps {made_for}"
            )
        engines.append(engine)
    where = engines[0].device
    if where != "cpu":  # TF32 has 10 bits of mantissa, float32 23
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    landmarks = any(e.engine is not None and e.engine.metadata.landmarks > 0 for e in engines)
    found = [pytorch(checkpoint.network, landmarks, where), *engines]
    missing: dict[str, str] = {}
    for name, make in _peers(checkpoint, landmarks, where, opened) if with_peers else ():
        print(f"preparing {name}", file=sys.stderr)
        try:
            found.append(make())
        except Exception as error:  # compilers and libraries raise exceptions of any type
            lines = str(error).strip().splitlines()
            missing[name] = (lines[0] if lines else type(error).__name__)[:200]
            print(f"{name} is left out: {missing[name]}", file=sys.stderr)
    return found, missing


def _peers(
    checkpoint: Checkpoint, landmarks: bool, device: str, opened: ExitStack
) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Names of the peers on a device, and functions that create them.

    A function raises its library's exception if the peer does not work on this machine.
    """

    def in_pytorch(name: str, convert: Callable[[Any], Any], precision: str) -> Contender:
        found = pytorch(checkpoint.network, landmarks, device, name, convert, precision)
        found.run(np.zeros((1, LQ_SIZE, LQ_SIZE, 3), np.uint8))  # so that an error shows here
        return found

    def channels_last(module: Any) -> Any:
        return module.to(memory_format=torch.channels_last)

    def half(module: Any) -> Any:
        return _Autocast(channels_last(module), torch.float16)

    def compiled(module: Any, **options: Any) -> Any:
        # Static shapes are fastest; each batch size is compiled in its warm-up run. By default the
        # compiler falls back to eager execution after 8 sizes, which would be measured as compiled.
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        return torch.compile(module, dynamic=False, **options)

    ways: list[tuple[str, Callable[[Any], Any], str]] = [
        ("PyTorch channels-last", channels_last, "fp32"),
        ("torch.compile", lambda module: compiled(channels_last(module)), "fp32"),
    ]
    if device != "cpu":
        graphs = {"mode": "reduce-overhead"}
        ways += [
            ("PyTorch, fp16 autocast", half, "fp16"),
            ("torch.compile, fp16 autocast", lambda module: compiled(half(module)), "fp16"),
            (
                "torch.compile, fp16 autocast, CUDA graphs",
                lambda module: compiled(half(module), **graphs),
                "fp16",
            ),
        ]
    for name, convert, precision in ways:
        yield name, partial(in_pytorch, name, convert, precision)

    folder = Path(opened.enter_context(TemporaryDirectory()))

    def plain(name: str, where: str) -> Contender:
        from benchmarks.contenders.builds import plain_export

        path = folder / "plain.onnx"
        if not path.exists():
            plain_export(checkpoint, landmarks, path)
        return engine_contender(path, where, opened, name, peer=True)

    yield "ONNX Runtime on a plain export", lambda: plain("ONNX Runtime on a plain export", device)
    if device == "cpu":
        yield "OpenVINO on a plain export", lambda: plain("OpenVINO on a plain export", "openvino")


class _Autocast(torch.nn.Module):
    """A module under autocast."""

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, image: torch.Tensor) -> Any:
        with torch.autocast(image.device.type, self.dtype):
            return self.module(image)
