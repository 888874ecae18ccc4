"""Is every block of every step of a graph right, whatever the blocks before it gave?

The graph is run once, on one picture, with the result of every block (`graph.names`) among its
outputs. Then the network runs in float64, and in float32 beside it, and each block is given what
the graph's own blocks gave before it. So errors do not add up and nothing amplifies them: what a
block is off by was made in that block, or in how it is connected. If every block is right given the
earlier ones, and every output given the last, the graph is the network.
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
from dic.contract import RGB_MEAN
from dic.landmarks import decode
from dic.progress import Progress
from dic.sizes import HEATMAP_STRIDE
from export.choices import Precision
from export.gate.limits import FLOORS, OWN
from export.gate.run import Outputs, feed, session
from export.graph.interface import Signature
from export.graph.names import RECOVERY, Place, boundaries, compared
from train.data.pairs import normalise
from train.model.network import DIC, Steps

ROUNDED = 2.0**-20  # share of the scale: a few float32 operations after the last block
# Of the heatmaps' layer, which is not quantised itself: a peak has an RMS of no more than 0.055.
INT8_HEATMAPS = 2.0**-6
# What `export.graph.packed` computes as one with its neighbour.
MERGED = {(1, "hour_glass/first_conv")}


class GateError(UserError):
    """An engine and PyTorch disagree."""


@dataclass(frozen=True)
class BlockError:
    """How far a block of a step is off the exact result, in its worst channel.

    Attributes:
        place: the step (0 before the first) and the block.
        error: root mean square over the channel's pixels, as a share of the block's largest value;
            infinite for another shape or a number that is none.
        allowed: the same unit; see `export.gate.limits`.
    """

    place: Place
    error: float
    allowed: float

    @property
    def is_right(self) -> bool:
        return self.error <= self.allowed

    def __str__(self) -> str:
        return (
            f"{named(self.place)}, off by {self.error:.2g} of its largest value "
            f"(allowed {self.allowed:.2g})"
        )


def named(place: Place) -> str:
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
        model: runnable there: half precisions emulated (`export.gate.emulate`).
        network: unrewritten, in float32.
        image: one picture, (1, 16, 16, 3) uint8.
        tolerance: times what is allowed.

    Returns:
        every block's error, in the order of computation.

    Raises:
        GateError: a block or output is off by more, or is not there; the first is named.
    """
    places = boundaries(model)
    given = session(model, [*places.values()])({signature.input: feed(image, signature)})
    blocks = {place: given[name] for place, name in places.items()}
    if not blocks:
        raise GateError("the graph's nodes carry no names of blocks")

    errors: list[BlockError] = []
    own: dict[Place, Tensor] = {}  # what PyTorch's float32 makes of the same

    def keep(place: Place, output: Tensor) -> None:
        if place in blocks and blocks[place].shape == tuple(output.shape):
            own[place] = output

    def compare(place: Place, output: Tensor) -> None:
        if place not in blocks:
            if not _may_lack(place, signature):
                raise GateError(f"{named(place)} is not in the graph")
            return
        floor = FLOORS[precision]
        if precision is Precision.INT8 and place[1] == "hour_glass/last":
            floor = INT8_HEATMAPS
        error = _block_error(place, blocks[place], output, own.get(place), floor, tolerance)
        if not error.is_right:
            raise GateError(f"it begins at {error}")
        errors.append(error)

    lq, desc = normalise(image), "blocks in float32 and 64"
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
    """Run a network with each block's result replaced by the graph's.

    Args:
        network: in float32 or float64; hooks stay on it.
        see: is shown each block's own result, before it is replaced.
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
    """Whether a right graph may have no such block of its own."""
    step, block = place
    is_last_pass = step == signature.steps and block.startswith("hour_glass")
    return place in MERGED or (is_last_pass and not signature.gives_landmarks)


def _modules(network: DIC) -> Iterator[tuple[str, nn.Module]]:
    """The modules whose whole path is a compared block."""
    for name, module in network.named_modules():
        path = name.split(".")
        if name and compared(path) == "/".join(path):
            yield "/".join(path), module


def _block_error(
    place: Place,
    given: NDArray[Any],
    exact: Tensor,
    own: Tensor | None,
    floor: float,
    tolerance: float,
) -> BlockError:
    """The worst channel of a block: given and exact (1, C, H, W), PyTorch's `own` in float32."""
    scale = max(exact.abs().max().item(), 1e-30)
    if own is None or given.shape != tuple(exact.shape) or not np.isfinite(given).all():
        return BlockError(place, math.inf, floor)

    def off(value: Tensor) -> Tensor:
        return (value.double() - exact).square().mean((0, 2, 3)).sqrt() / scale

    errors = off(torch.from_numpy(given))
    allowed = tolerance * (OWN * off(own) + floor)
    worst = int((errors / allowed).argmax())
    return BlockError(place, errors[worst].item(), allowed[worst].item())


def check_outputs(
    names: Sequence[str], given: Outputs, steps: Steps, tolerance: float = 1.0
) -> None:
    """Hold outputs against the last blocks: what follows them is a few roundings.

    Args:
        steps: the graph's own faces and heatmaps, in float64; those of the last step suffice for
            outputs of the last step.

    Raises:
        GateError: an output does not follow from them.
    """
    for name in names:
        value = given[name]
        step = int(name.rpartition("_")[2]) if "_" in name else -1
        sr, maps = steps.sr[step].numpy(), steps.heatmaps[step].numpy()
        if name == "landmarks":
            right = value.shape == (*maps.shape[:2], 2)
            if not right or not _are_peaks(value, maps.astype(np.float32)):
                raise GateError("output 'landmarks' is not what its heatmaps decode to")
            continue
        if name == "face":
            exact = (sr.transpose(0, 2, 3, 1) + RGB_MEAN) * 255
            room: Any = 0.5 + tolerance * ROUNDED * (255 + np.abs(exact))
            exact = exact.clip(0, 255)
        else:
            kind = name.partition("_")[0]
            exact = {"sr": sr, "heatmap": maps, "scores": maps.max((2, 3))}[kind]
            room = tolerance * ROUNDED * max(float(np.abs(exact).max()), 1.0)
        if value.shape != exact.shape or not (np.abs(value - exact) <= room).all():
            raise GateError(f"output {name!r} does not follow from the last blocks")


def _are_peaks(points: NDArray[Any], maps: NDArray[np.float32]) -> bool:
    """Whether (B, K, 2) landmarks are those of heatmaps, or of others of equally high cells."""
    wanted, peaks = decode(maps)
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
    same = (points == wanted).all(-1)
    tied = (heights == peaks) & ((second == peaks) | (second == third))
    return bool((same | tied).all())
