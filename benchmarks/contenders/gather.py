"""Who is measured: PyTorch as it is (the reference), engines, and what others make of the same
network (peers). All take pictures and give an engine's outputs, so all can be compared.
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
from dic.contract import normalise, to_levels
from dic.landmarks import decode
from dic.sizes import LQ_SIZE
from export.graph.interface import Io, Signature, wrap
from runtime.engines.contract import Engine, cores
from runtime.engines.load import load_engine
from train.checkpoint import Checkpoint
from train.model.network import DIC

REFERENCE = "PyTorch eager"

Faces = NDArray[np.uint8]
Outputs = dict[str, NDArray[Any]]
Run = Callable[[Faces], Outputs]


@dataclass(frozen=True)
class Contender:
    """Somebody who restores faces.

    Attributes:
        name: in tables and files; the same in every run, so that runs can be compared.
        run: (B, 16, 16, 3) uint8 RGB to an engine's outputs: `face` (B, 128, 128, 3) uint8, and
            where it gives them `landmarks` and `scores`.
        backend: what computes it, for people to read.
        device: "cpu" or "cuda:N".
        precision: what it computes in.
        peer: measured for comparison only.
        engine: what runs it, if it is one.
        run_there: on a GPU, the same from a PyTorch tensor there with results left there; None on a
            CPU, and of engines with `--io tensor`.
    """

    name: str
    run: Run
    backend: str
    device: str
    precision: str = "fp32"
    peer: bool = False
    engine: Engine | None = None
    run_there: Callable[[torch.Tensor], object] | None = None

    @property
    def max_batch(self) -> int | None:
        """Most faces a run; None where any number will do."""
        return self.engine.max_batch if self.engine else None


def pytorch(
    network: DIC,
    landmarks: bool = True,
    device: str = "cpu",
    name: str = REFERENCE,
    convert: Callable[[Any], Any] = lambda module: module,
    precision: str = "fp32",
) -> Contender:
    """The PyTorch network, which is left where it is, as an engine; as a peer under another name.

    Args:
        convert: makes something else of the module, such as a compiled one.
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
        run_there=None if device == "cpu" else run_there,
    )


def as_engine(engine: Engine) -> Run:
    """An engine of either face: what `--io tensor` leaves to its caller is done here."""
    if engine.metadata.io == "image":
        return lambda image: engine.run({"image": image})
    last = engine.metadata.steps - 1

    def run(image: Faces) -> Outputs:
        given = engine.run({"lq": normalise(image)})
        sr = given["sr"] if "sr" in given else given[f"sr_{last}"]
        faces: Outputs = {"face": to_levels(sr)}
        if f"heatmap_{last}" in given:
            points, scores = decode(given[f"heatmap_{last}"])
            faces |= {"landmarks": points, "scores": scores}
        return faces

    return run


def engine_contender(
    path: Path, device: str, opened: ExitStack, name: str = "", peer: bool = False
) -> Contender:
    """An engine file, as the runtime runs it: on a CPU few faces on all cores, and as many as cores
    or more one a core (`load_engine(lanes=…)`, as `runtime.infer` does with many pictures).

    Args:
        peer: somebody else's: always all cores for one run.
        opened: closes what is loaded.

    Raises:
        EngineError: it cannot be loaded there.
    """
    engine = opened.enter_context(load_engine(path, device))
    one = several = as_engine(engine)
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
        None
        if engine.device == "cpu" or engine.metadata.io != "image"
        else lambda image: engine.run({"image": image}),
    )


def gather(
    checkpoint: Checkpoint, paths: Sequence[Path], device: str, with_peers: bool, opened: ExitStack
) -> tuple[list[Contender], dict[str, str]]:
    """The reference first, then engines, then peers.

    Args:
        opened: closes what is loaded, and removes what is built.

    Returns:
        them, and for each peer that is missing why.

    Raises:
        UserError: two engines are called alike, or were made for another number of steps.
        EngineError: an engine cannot be loaded.
    """
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        raise UserError("two engines have the same name; results go by names, so rename one")
    engines = []
    for path in paths:
        engine = engine_contender(path, device, opened)
        assert engine.engine is not None
        made_for, taken = engine.engine.metadata.steps, checkpoint.network.config.steps
        if made_for not in (0, taken):  # a plan alone does not know
            raise UserError(
                f"{path}: unrolls {made_for} steps, the reference takes {taken}; --steps {made_for}"
            )
        engines.append(engine)
    where = engines[0].device
    if where != "cpu":  # fp32 means fp32 for everybody: TF32 has 10 bits of mantissa
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    landmarks = any(e.engine is not None and e.engine.metadata.landmarks > 0 for e in engines)
    found = [pytorch(checkpoint.network, landmarks, where), *engines]
    missing: dict[str, str] = {}
    for name, make in _peers(checkpoint, landmarks, where, opened) if with_peers else ():
        print(f"preparing {name}", file=sys.stderr)
        try:
            found.append(make())
        except Exception as error:  # compilers and other people's libraries raise what they like
            lines = str(error).strip().splitlines()
            missing[name] = (lines[0] if lines else type(error).__name__)[:200]
            print(f"{name} is left out: {missing[name]}", file=sys.stderr)
    return found, missing


def _peers(
    checkpoint: Checkpoint, landmarks: bool, device: str, opened: ExitStack
) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """What else runs this network on such a device: names, and what makes each.

    Making one raises what its library raises where it does not work here.
    """

    def in_pytorch(name: str, convert: Callable[[Any], Any], precision: str) -> Contender:
        found = pytorch(checkpoint.network, landmarks, device, name, convert, precision)
        found.run(np.zeros((1, LQ_SIZE, LQ_SIZE, 3), np.uint8))  # it fails here if it fails
        return found

    def channels_last(module: Any) -> Any:
        return module.to(memory_format=torch.channels_last)

    def half(module: Any) -> Any:
        return _Autocast(channels_last(module), torch.float16)

    def compiled(module: Any, **options: Any) -> Any:
        # Of static shapes, the fastest: compiled anew for each batch, in the run that warms up.
        # Without these, some batches on it would run eagerly under the compiler's name.
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
    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, image: torch.Tensor) -> Any:
        with torch.autocast(image.device.type, self.dtype):
            return self.module(image)
