"""An engine's inputs and outputs: uint8 pictures, or the network's normalised tensors.

The wrapper modules of this file are recorded. The recurrence runs inside them, so the graph is
unrolled.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dic.pixels import RGB_MEAN
from dic.sizes import HEATMAP_SIZE, HEATMAP_STRIDE, LQ_SIZE
from train.model.network import DIC


class Io(enum.Enum):
    """What an engine's inputs and outputs are; the value is stored in the metadata."""

    IMAGE = "image"
    TENSOR = "tensor"


@dataclass(frozen=True)
class Signature:
    """An engine's inputs and outputs.

    Attributes:
        io: IMAGE for uint8 RGB pictures [batch, H, W, 3], TENSOR for normalised float32 NCHW.
        steps: N, the number of unrolled steps.
        landmarks: output landmarks (IMAGE) or heatmaps (TENSOR with `all_steps`).
        all_steps: output the results of every step (TENSOR only).
    """

    io: Io
    steps: int
    landmarks: bool
    all_steps: bool = False

    @property
    def input(self) -> str:
        """The name of the input."""
        return "image" if self.io is Io.IMAGE else "lq"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs, in the order of the wrapper module's results; see `step_of`."""
        if self.io is Io.IMAGE:
            return ("face", "landmarks", "scores") if self.landmarks else ("face",)
        if not self.all_steps:
            return ("sr",)
        faces = tuple(f"sr_{i}" for i in range(self.steps))
        maps = tuple(f"heatmap_{i}" for i in range(self.steps))
        return faces + maps if self.landmarks else faces

    @property
    def gives_landmarks(self) -> bool:
        """Whether the outputs include landmarks or heatmaps."""
        return self.landmarks and (self.io is Io.IMAGE or self.all_steps)

    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        """Random input for `batch` pictures, in this signature's layout and type."""
        size = (batch, LQ_SIZE, LQ_SIZE, 3)
        image = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        return image if self.io is Io.IMAGE else normalise(image)


def step_of(output: str) -> int:
    """The index, from 0, of the step that an output named by `Signature.outputs` belongs to.

    Returns:
        2 for `sr_2` and `heatmap_2`; -1, the last step, for names without a number.
    """
    return int(output.rpartition("_")[2]) if "_" in output else -1


class TensorEngine(nn.Module):
    """lq [batch, 3, 16, 16] float32 → the signature's outputs."""

    def __init__(self, network: DIC, signature: Signature) -> None:
        super().__init__()
        self.network, self.signature = network, signature

    def forward(self, lq: Tensor) -> tuple[Tensor, ...]:
        steps = self.network(lq, self.signature.steps)
        if not self.signature.all_steps:
            return (steps.sr[-1],)
        return (*steps.sr, *steps.heatmaps) if self.signature.landmarks else tuple(steps.sr)


class ImageEngine(nn.Module):
    """image [batch, 16, 16, 3] uint8 RGB → face, and landmarks and scores if `landmarks` is set."""

    def __init__(self, network: DIC, signature: Signature) -> None:
        super().__init__()
        self.network, self.signature = network, signature

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        steps = self.network(normalise(image), self.signature.steps)
        face = to_image(steps.sr[-1])
        return (face, *decode(steps.heatmaps[-1])) if self.signature.landmarks else (face,)


def wrap(network: DIC, signature: Signature) -> nn.Module:
    """The module to record for a signature, in evaluation mode."""
    kind = ImageEngine if signature.io is Io.IMAGE else TensorEngine
    return kind(network, signature).eval()


def normalise(image: Tensor) -> Tensor:
    """[batch, H, W, 3] uint8 RGB → [batch, 3, H, W] float32, RGB / 255 - RGB_MEAN."""
    # The cast comes first: TensorRT has no other layer for uint8.
    return image.float().permute(0, 3, 1, 2) / 255 - _mean(image)


def to_levels(sr: Tensor) -> Tensor:
    """[batch, 3, H, W] normalised → grey levels as float32 in 0..255, not rounded."""
    return ((sr + _mean(sr)) * 255).clamp(0, 255)


def to_image(sr: Tensor) -> Tensor:
    """[batch, 3, H, W] normalised → [batch, H, W, 3] uint8 RGB."""
    return to_levels(sr).round().permute(0, 2, 3, 1).to(torch.uint8)


def _mean(like: Tensor) -> Tensor:
    return torch.tensor(RGB_MEAN, device=like.device).view(1, 3, 1, 1)


def decode(heatmap: Tensor) -> tuple[Tensor, Tensor]:
    """[batch, K, 32, 32] → points [batch, K, 2] in pixels of the 128×128 face, peaks [batch, K].

    The same rule as `dic.landmarks.decode`, in ONNX operators that every runtime supports.
    """
    peaks, cells = heatmap.flatten(2).topk(2, dim=2)
    rows = torch.div(cells, HEATMAP_SIZE, rounding_mode="trunc")
    place = torch.stack((cells % HEATMAP_SIZE, rows), dim=-1)  # [.., 2, (x, y)]
    first, second = place[:, :, 0], place[:, :, 1]
    towards = torch.where(second > first, 1.0, -1.0)
    return first.float() * HEATMAP_STRIDE + towards, peaks[:, :, 0]
