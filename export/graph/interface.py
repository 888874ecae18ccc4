"""The two faces that an engine can have: pictures in and out, or the network's own tensors.

These wrappers are what is traced: the recurrence runs inside them, so the graph is unrolled.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dic.contract import RGB_MEAN
from dic.sizes import HEATMAP_SIZE, HEATMAP_STRIDE, LQ_SIZE
from train.model.network import DIC


class Io(enum.Enum):
    IMAGE = "image"
    TENSOR = "tensor"


@dataclass(frozen=True)
class Signature:
    """What an engine takes and gives.

    Attributes:
        io: IMAGE for uint8 pictures [batch, H, W, 3] RGB, TENSOR for normalised float32 NCHW.
        steps: N, how many steps are unrolled.
        landmarks: whether landmarks (IMAGE) or heatmaps (TENSOR, all steps) are given.
        all_steps: whether every step's outputs are given (TENSOR only).
    """

    io: Io
    steps: int
    landmarks: bool
    all_steps: bool = False

    @property
    def input(self) -> str:
        return "image" if self.io is Io.IMAGE else "lq"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names in the order of the traced function's results."""
        if self.io is Io.IMAGE:
            return ("face", "landmarks", "scores") if self.landmarks else ("face",)
        if not self.all_steps:
            return ("sr",)
        faces = tuple(f"sr_{i}" for i in range(self.steps))
        maps = tuple(f"heatmap_{i}" for i in range(self.steps))
        return faces + maps if self.landmarks else faces

    @property
    def gives_landmarks(self) -> bool:
        """Whether landmarks or heatmaps are among the outputs."""
        return self.landmarks and (self.io is Io.IMAGE or self.all_steps)

    def sample(self, batch: int, generator: torch.Generator) -> Tensor:
        """Random input: pixels of every value, never a blank."""
        size = (batch, LQ_SIZE, LQ_SIZE, 3)
        image = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        return image if self.io is Io.IMAGE else normalise(image)


class TensorEngine(nn.Module):
    """lq [batch, 3, 16, 16] → the outputs named by the signature."""

    def __init__(self, network: DIC, signature: Signature) -> None:
        super().__init__()
        self.network, self.signature = network, signature

    def forward(self, lq: Tensor) -> tuple[Tensor, ...]:
        steps = self.network(lq, self.signature.steps)
        if not self.signature.all_steps:
            return (steps.sr[-1],)
        return (*steps.sr, *steps.heatmaps) if self.signature.landmarks else tuple(steps.sr)


class ImageEngine(nn.Module):
    """image [batch, 16, 16, 3] uint8 RGB → face, and landmarks and scores where asked for."""

    def __init__(self, network: DIC, signature: Signature) -> None:
        super().__init__()
        self.network, self.signature = network, signature

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        steps = self.network(normalise(image), self.signature.steps)
        face = to_image(steps.sr[-1])
        return (face, *decode(steps.heatmaps[-1])) if self.signature.landmarks else (face,)


def wrap(network: DIC, signature: Signature) -> nn.Module:
    """The function of the engine that `signature` describes."""
    kind = ImageEngine if signature.io is Io.IMAGE else TensorEngine
    return kind(network, signature).eval()


def normalise(image: Tensor) -> Tensor:
    """[batch, H, W, 3] uint8 RGB → [batch, 3, H, W] float32."""
    # TensorRT knows one thing to do with bytes: cast them. So no other layer may touch them.
    return image.float().permute(0, 3, 1, 2) / 255 - _mean(image)


def to_levels(sr: Tensor) -> Tensor:
    """[batch, 3, H, W] normalised → grey levels as floats in 0..255, not yet rounded."""
    return ((sr + _mean(sr)) * 255).clamp(0, 255)


def to_image(sr: Tensor) -> Tensor:
    """[batch, 3, H, W] normalised → [batch, H, W, 3] uint8 RGB."""
    return to_levels(sr).round().permute(0, 2, 3, 1).to(torch.uint8)


def _mean(like: Tensor) -> Tensor:
    return torch.tensor(RGB_MEAN, device=like.device).view(1, 3, 1, 1)


def decode(heatmap: Tensor) -> tuple[Tensor, Tensor]:
    """[batch, K, 32, 32] → points [batch, K, 2] in pixels, peaks [batch, K].

    The same rule as `dic.landmarks.decode`, in operations that every engine has.
    """
    peaks, cells = heatmap.flatten(2).topk(2, dim=2)
    place = torch.stack((cells % HEATMAP_SIZE, cells // HEATMAP_SIZE), dim=-1)  # [.., 2, (x, y)]
    first, second = place[:, :, 0], place[:, :, 1]
    towards = torch.where(second > first, 1.0, -1.0)
    return first.float() * HEATMAP_STRIDE + towards, peaks[:, :, 0]
