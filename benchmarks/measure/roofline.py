"""The machine's limits, measured in the same run, and each contender's share of them.

The roofline model (Williams et al., CACM 2009): a computation of F operations that moves B bytes
takes at least max(F / rate, B / bandwidth). A whole DIC network moves few bytes (its weights once,
a few kilobytes of faces), so the rate limits it. Its single operators read and write their inputs
and outputs, and some are limited by bandwidth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure.latency import Latency
from dic.sizes import LQ_SIZE
from train.model.network import DIC

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SIZES = {"cpu": (768, 1024, 1536, 2048), "cuda": (4096, 8192)}
COPIED = {"cpu": 2**27, "cuda": 2**31}  # bytes, far more than the caches hold
REPEATS = 7


@dataclass(frozen=True)
class Limits:
    """A machine's limits.

    Attributes:
        device: "cpu" or "cuda:N".
        gflops: by precision, 10⁹ operations per second of PyTorch's fastest matrix product (a
            multiply-add counts as two); fp32 without TF32. int8 is not measured.
        bandwidth: 10⁹ bytes per second of copying, counting bytes read and written.
        network: 10⁹ operations per face of the network, not packed.
    """

    device: str
    gflops: dict[str, float]
    bandwidth: float
    network: float

    def share(self, row: Latency, device: str, precision: str) -> float | None:
        """A contender's operations per second as a share of the machine's rate.

        Args:
            row: the contender's latency.
            device: its device.
            precision: its precision.

        Returns:
            the share, 0..1; slightly above 1 if a convolution beats the matrix product. None if the
            rate was not measured.
        """
        rate = self.gflops.get(precision)
        if rate is None or device != self.device:
            return None
        return self.network * row.faces_a_second / rate


def measure_limits(
    network: DIC, landmarks: bool, device: str, precisions: Sequence[str] = ("fp32",)
) -> Limits:
    """Measure matrix products and copies, which takes a few seconds.

    Args:
        landmarks: whether the last landmark pass counts as part of the network.
        device: "cpu" or "cuda:N".
        precisions: the precisions to measure besides fp32.
    """
    kind = device.partition(":")[0]
    wanted = [name for name in DTYPES if name in ("fp32", *precisions)]
    gflops = {
        name: max(_multiplied(size, DTYPES[name], device) for size in SIZES[kind])
        for name in wanted
    }
    return Limits(device, gflops, _copied(COPIED[kind], device), operations(network, landmarks))


def operations(network: DIC, landmarks: bool) -> float:
    """10⁹ operations per face, counted by PyTorch while it runs; needs no export.

    `export.graph.flops` counts those of an ONNX graph; a test holds the two equal.

    Args:
        landmarks: whether the last landmark pass counts. Only landmarks need it, although PyTorch
            eager always computes it.
    """
    lq = torch.zeros(1, 3, LQ_SIZE, LQ_SIZE, device=network.components.device)
    whole, unused = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with torch.inference_mode():
        with whole:
            given = network(lq)
        if not landmarks:
            _, hidden = network.hour_glass(given.sr[-1], None)
            with unused:
                network.hour_glass(given.sr[-1], hidden)
    return (whole.get_total_flops() - unused.get_total_flops()) / 1e9


def _multiplied(size: int, dtype: torch.dtype, device: str) -> float:
    """10⁹ operations per second of a product of two (size, size) matrices."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return 2 * size**3 / _seconds(lambda: torch.mm(a, b, out=out), device) / 1e9
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def _copied(size: int, device: str) -> float:
    """10⁹ bytes per second of copying `size` bytes, read and written."""
    a = torch.ones(size, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * size / _seconds(lambda: b.copy_(a), device) / 1e9


def _seconds(work: Callable[[], object], device: str) -> float:
    """The fastest of some runs, because a limit is the best that is possible."""
    found = []
    for _ in range(REPEATS + 1):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - started)
    return min(found[1:])


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)
