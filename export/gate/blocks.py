"""Compare every block of every step of a graph with PyTorch, each on the graph's own inputs.

The graph runs once, on one picture, with the result of every block (`graph.names`) as an additional
output. The network then runs in float32 and in float64, and the result of each block is replaced by
the graph's before the next block reads it. Errors therefore neither add up nor are amplified: a
block's error comes from that block or from its connections. If every block is correct given the
earlier ones, and every output given the last blocks, the graph computes the network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dic.console import UserError
from dic.landmarks import decode
from dic.pixels import RGB_MEAN
from dic.progress import Progress
from dic.sizes import HEATMAP_STRIDE
from export.choices import Precision
from export.gate.limits import FLOORS, PYTORCH_FACTOR
from export.gate.run import Outputs, feed, session
from export.graph.interface import Signature, step_of
from export.graph.names import RECOVERY, Place, boundaries, compared
from train.data.pairs import normalise
from train.model.network import DIC, Steps

# Relative error allowed to the few float32 operations between the last block and an output.
OUTPUT_ROUNDING = 2.0**-20
# Floor for the heatmaps in int8: their layer is not quantised, and the RMS of a heatmap with one
# peak is at most 0.055 of its largest value.
INT8_HEATMAPS = 2.0**-6
# Blocks that `export.graph.packed` merges with a neighbouring one.
MERGED = {(1, "hour_glass/first_conv")}


class GateError(UserError):
    """A graph disagrees with PyTorch. The message names the first block or output that is wrong."""


@dataclass(frozen=True)
class BlockError:
    """A block's difference from its float64 result, in its worst channel.

    Attributes:
        place: the step (0 before the first) and the block.
        error: root mean square over the channel's pixels, as a share of the block's largest value;
            infinite if the shape differs or values are NaN or infinite.
        allowed: its limit, in the same unit; see `export.gate.limits`.
    """

    place: Place
    error: float
    allowed: float

    @property
    def is_right(self) -> bool:
        return self.error <= self.allowed

    def __str__(self) -> str:
        return (
            f"{place_name(self.place)}, off by {self.error:.2g} of its largest value "
            f"(allowed {self.allowed:.2g})"
        )


def place_name(place: Place) -> str:
    """A place as text: "step 2, block/fusion_block", or the block alone before the first step."""
    step, block = place
    return f"step {step}, {block}" if step else block


@torch.no_grad()
def check_blocks(
    model: onnx.ModelProto,
    network: DIC,
    image: NDArray[np.uint8],
    signature: Signature,
    precision: Precision,
    tolerance: float = 1.0,
) -> list[BlockError]:
    """Compare every block and output of a graph, run by ONNX Runtime on the CPU.

    Args:
        model: the graph, with half precisions emulated (`export.gate.emulate`).
        network: the network in float32, not packed.
        image: one picture, (1, 16, 16, 3) uint8 RGB.
        precision: the engine's; decides the floor of the limit.
        tolerance: factor on the limits.

    Returns:
        every block's error, in the order of computation.

    Raises:
        GateError: a block or output is missing, or its error exceeds the limit; names the first.
    """
    places = boundaries(model)
    given = session(model, [*places.values()])({signature.input: feed(image, signature)})
    blocks = {place: given[name] for place, name in places.items()}
    if not blocks:
        raise GateError("the graph's nodes are not named by block (export.graph.names)")

    errors: list[BlockError] = []
    in_float32: dict[Place, Tensor] = {}  # PyTorch's results on the same inputs

    def keep(place: Place, output: Tensor) -> None:
        if place in blocks and blocks[place].shape == tuple(output.shape):
            in_float32[place] = output

    def compare(place: Place, output: Tensor) -> None:
        if place not in blocks:
            if not _may_lack(place, signature):
                raise GateError(f"{place_name(place)} is not in the graph")
            return
        floor = FLOORS[precision]
        if precision is Precision.INT8 and place[1] == "hour_glass/last":
            floor = INT8_HEATMAPS
        float32 = in_float32.get(place)
        error = _block_error(place, blocks[place], output, float32, floor, tolerance)
        if not error.is_right:
            raise GateError(f"first at {error}")
        errors.append(error)

    lq, desc = normalise(image), "blocks in float32 and float64"
    with Progress(total=2 * len(blocks), desc=desc, unit="block", leave=False) as bar:
        _substituted(copy.deepcopy(network), lq, signature.steps, blocks, keep, bar)
        exact = copy.deepcopy(network).double()
        steps = _substituted(exact, lq, signature.steps, blocks, compare, bar)
    check_outputs(signature.outputs, given, steps, tolerance)
    return errors


def _substituted(
    network: DIC,
    lq: Tensor,
    steps: int,
    blocks: dict[Place, NDArray[Any]],
    see: Callable[[Place, Tensor], None],
    bar: Progress,
) -> Steps:
    """Run a network, replacing each block's result by the graph's.

    Args:
        network: in float32 or float64; the hooks are not removed from it.
        lq: (1, 3, 16, 16) normalised.
        blocks: the graph's results, (1, C, H, W).
        see: called with each block's own result before it is replaced.

    Returns:
        faces and heatmaps of every step.
    """
    dtype = next(network.parameters()).dtype
    step = 0

    def entered(*_: object) -> None:
        nonlocal step
        step += 1

    def hook(block: str) -> Any:
        def replace(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
            place = step, block
            see(place, output)
            given = blocks.get(place)
            if given is None or given.shape != tuple(output.shape):
                return None
            bar.update()
            return torch.from_numpy(given).to(dtype)

        return replace

    for name in RECOVERY:
        getattr(network, name).register_forward_pre_hook(entered)
    for name, module in _modules(network):
        module.register_forward_hook(hook(name))
    result: Steps = network(lq.to(dtype), steps)
    return result


def _may_lack(place: Place, signature: Signature) -> bool:
    """Whether a correct graph may lack a block: it was merged, or its result is not needed."""
    step, block = place
    is_last_pass = step == signature.steps and block.startswith("hour_glass")
    return place in MERGED or (is_last_pass and not signature.gives_landmarks)


def _modules(network: DIC) -> Iterator[tuple[str, nn.Module]]:
    """The modules that are compared blocks, with their paths separated by slashes."""
    for name, module in network.named_modules():
        path = name.split(".")
        if name and compared(path) == "/".join(path):
            yield "/".join(path), module


def _block_error(
    place: Place,
    given: NDArray[Any],
    exact: Tensor,
    float32: Tensor | None,
    floor: float,
    tolerance: float,
) -> BlockError:
    """The error of a block's worst channel.

    Args:
        given: the graph's result, (1, C, H, W).
        exact: PyTorch's in float64.
        float32: PyTorch's in float32; None if the graph's shape differs.
    """
    scale = max(exact.abs().max().item(), 1e-30)
    if float32 is None or given.shape != tuple(exact.shape) or not np.isfinite(given).all():
        return BlockError(place, math.inf, floor)

    def rms(value: Tensor) -> Tensor:
        return (value.double() - exact).square().mean((0, 2, 3)).sqrt() / scale

    errors = rms(torch.from_numpy(given))
    allowed = tolerance * (PYTORCH_FACTOR * rms(float32) + floor)
    worst = int((errors / allowed).argmax())
    return BlockError(place, errors[worst].item(), allowed[worst].item())


def check_outputs(
    names: Sequence[str], given: Outputs, steps: Steps, tolerance: float = 1.0
) -> None:
    """Check that outputs follow from the last blocks' results, up to a few roundings.

    Args:
        names: the outputs to check.
        given: outputs by name.
        steps: the graph's own faces and heatmaps, as float64; of the last step only if all outputs
            belong to it.
        tolerance: factor on the allowed rounding.

    Raises:
        GateError: an output does not follow from them.
    """
    for name in names:
        value = given[name]
        step = step_of(name)
        sr, maps = steps.sr[step].numpy(), steps.heatmaps[step].numpy()
        if name == "landmarks":
            fits = value.shape == (*maps.shape[:2], 2)
            if not fits or not _are_peaks(value, maps.astype(np.float32)):
                raise GateError("output 'landmarks' does not decode from its heatmaps")
            continue
        if name == "face":
            exact = (sr.transpose(0, 2, 3, 1) + RGB_MEAN) * 255
            allowed: Any = 0.5 + tolerance * OUTPUT_ROUNDING * (255 + np.abs(exact))
            exact = exact.clip(0, 255)
        else:
            kind = name.partition("_")[0]
            exact = {"sr": sr, "heatmap": maps, "scores": maps.max((2, 3))}[kind]
            allowed = tolerance * OUTPUT_ROUNDING * max(float(np.abs(exact).max()), 1.0)
        if value.shape != exact.shape or not (np.abs(value - exact) <= allowed).all():
            raise GateError(f"output {name!r} does not follow from the last blocks' results")


def _are_peaks(points: NDArray[Any], maps: NDArray[np.float32]) -> bool:
    """Whether landmarks (B, K, 2) decode from heatmaps (B, K, 32, 32), ties broken either way."""
    expected, peaks = decode(maps)
    cells = ((points + 2) // HEATMAP_STRIDE).astype(int)
    size = maps.shape[-1]
    if not np.isfinite(points).all() or (cells < 0).any() or (cells >= size).any():
        return False
    heights = np.take_along_axis(
        maps.reshape(*maps.shape[:2], -1), (cells[..., 1] * size + cells[..., 0])[..., None], -1
    )[..., 0]
    second, third = np.sort(maps.reshape(*maps.shape[:2], -1), axis=-1)[..., [-2, -3]].transpose(
        2, 0, 1
    )
    same = (points == expected).all(-1)
    tied = (heights == peaks) & ((second == peaks) | (second == third))
    return bool((same | tied).all())
