"""The CUDA kernels' launches: cutting, shrinking, comparing, projecting and blending faces.

A launch is asynchronous on the caller's stream, allocates nothing and can be captured in a CUDA
graph. Records (`layout`) lie in GPU memory; `runtime.faces.records` makes them. Nothing here
imports PyCUDA until the kernels are loaded.

No kernel has run on a GPU yet; the tests run the same bodies on a CPU (docs/how/gpu.md).
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from runtime.cuda import layout
from runtime.engines.arrays import DeviceArray

log = logging.getLogger(__name__)

FATBIN = "dic_kernels.fatbin"
# In an installed package, and in a checkout after `make kernels`.
PLACES = (Path(__file__).parent, Path(__file__).parents[2] / "build" / "cuda")
THREADS = 256  # a block, as in common.h
# As the kernels' headers define them; the tests compare.
TILE, CHUNK = 16, 64
MASK_PIXELS = 4 * THREADS
SHARED = {"project": 2 * TILE * 36, "mask": 2 * 16 * 16 * 4, "peaks": THREADS * 8}
MOST_SHARED = 48 * 1024  # bytes of shared memory that every GPU gives a block
MOST_RECORDS = 65_535  # CUDA's limit on a grid's second dimension

Memory = int | DeviceArray  # an address on the GPU, or an array there


class Launcher(Protocol):
    """Runs kernels."""

    def __call__(
        self, name: str, grid: tuple[int, int], shared: int, arguments: bytes, stream: Any
    ) -> None:
        """Enqueue a kernel.

        Args:
            name: a key of `layout.ARGUMENTS`.
            grid: blocks of `THREADS` threads.
            shared: dynamic shared memory of a block in bytes.
            arguments: the kernel's structure.
            stream: the CUDA stream, as the launcher's library has it; None is the default stream.
        """


@dataclass(frozen=True)
class Frame:
    """A picture or video frame in GPU memory.

    Attributes:
        pixels: address of the upper left pixel's first channel.
        width, height: in pixels.
        channels: interleaved; 1 is grey, 3 RGB, 4 RGB and one more that is ignored.
        depth: bytes per value, 1 (uint8) or 2 (uint16).
        stride: bytes from one row to the next; 0 if rows follow each other without a gap.

    Raises:
        ValueError: a size is none that the kernels take, or rows overlap or are misaligned.
    """

    pixels: int
    width: int
    height: int
    channels: int = 3
    depth: int = 1
    stride: int = 0

    def __post_init__(self) -> None:
        row = self.width * self.channels * self.depth
        if self.width < 1 or self.height < 1 or self.width * self.height >= 2**31:
            raise ValueError(f"a frame has 1 to 2**31 pixels, not {self.width}×{self.height}")
        if self.channels not in (1, 3, 4) or self.depth not in (1, 2):
            raise ValueError(
                "a frame has 1, 3 or 4 channels of 1 or 2 bytes, not "
                f"{self.channels} of {self.depth}"
            )
        if self.stride == 0:
            object.__setattr__(self, "stride", row)
        if self.stride < row or (self.stride | self.pixels) % self.depth:
            raise ValueError(
                f"a row of {row} bytes does not fit a stride of {self.stride}, or is misaligned"
            )

    @property
    def record(self) -> tuple[int, ...]:
        """The values of `layout.FRAME`."""
        return (self.pixels, self.stride, self.width, self.height, self.channels, self.depth)


@dataclass(frozen=True)
class MaskSettings:
    """How masks are made: the constants of `runtime.faces.blend`.

    Attributes:
        difference: grey levels where the weight begins to fall from 1, and where it is 0.
        feather: the same for the distance from a face's centre, in half sides.
        outline: the same for the distance from the face's outline, in sides.
        blur: the seven taps of the differences' Gaussian.
    """

    difference: tuple[float, float]
    feather: tuple[float, float]
    outline: tuple[float, float]
    blur: tuple[float, ...]


def resize_shared(old: int, new: int) -> int:
    """Shared memory in bytes for resizing pictures of side `old` to `new`; see `resample.h`."""
    side = min(TILE, new)
    taps = (-(-4 * old // new) if old > new else 4) + 1  # source pixels of a pixel, each way
    return 2 * side * (taps + 2) * 4 + side * side * 3 * 4 + CHUNK * side * 3


def resizable(old: int, new: int) -> bool:
    """Whether the kernel can resize pictures of side `old` to `new`: at least to 1/80."""
    return resize_shared(old, new) <= MOST_SHARED


class Kernels:
    """The kernels of one CUDA context, which must be current for every launch.

    Every launch takes records and results in GPU memory, by address or as a `DeviceArray`, and
    `stream` as its last argument. Sizes that would make a kernel read or write elsewhere are not
    visible in GPU memory, and are the caller's duty: `runtime.faces.records` makes records that
    are right.

    Args:
        launch: enqueues a kernel; `load_kernels` gives PyCUDA's.
    """

    def __init__(self, launch: Launcher) -> None:
        self._launch = launch

    def cut(
        self, frame: Frame, crops: Memory, count: int, largest: int, pieces: Memory, stream: Any
    ) -> None:
        """Cut crops out of a frame, upright, as uint8 RGB; see `runtime.faces.crop.cut`.

        Args:
            frame: of any depth and number of channels.
            crops: `count` records `layout.CROP`.
            largest: side of the largest crop in pixels.
            pieces: receives each crop (size, size, 3) at its record's `piece`.
        """
        blocks = _blocks(largest * largest, THREADS)
        self._run(
            "cut", (blocks, count), 0, stream, frame.record, _address(crops), _address(pieces)
        )

    def resize(
        self,
        sources: Memory,
        targets: Memory,
        jobs: Memory,
        sizes: Sequence[tuple[int, int]],
        stream: Any,
    ) -> None:
        """Resize square uint8 RGB pictures as Pillow does; see `runtime.pictures.resample`.

        Args:
            sources, targets: addresses that the records' places count from.
            jobs: one record `layout.RESIZE` per pair of `sizes`.
            sizes: old and new side of each picture.

        Raises:
            ValueError: a picture shrinks by more than the kernel's shared memory allows.
        """
        shared = max(resize_shared(old, new) for old, new in sizes)
        if shared > MOST_SHARED:
            worst = max(sizes, key=lambda size: resize_shared(*size))
            raise ValueError(
                "a picture shrinks by more than this kernel can: {} to {}".format(*worst)
            )
        blocks = max(_blocks(new, TILE) for _, new in sizes) ** 2
        addresses = map(_address, (sources, targets, jobs))
        self._run("resize", (blocks, len(sizes)), shared, stream, *addresses)

    def project(
        self,
        faces: Memory,
        targets: Memory,
        reduced: Memory,
        jobs: Memory,
        count: int,
        side: int,
        lanczos: bool,
        stream: Any,
    ) -> None:
        """One round of back-projection, in place; see `runtime.faces.blend.back_project`.

        Args:
            faces: (`count`, side, side, 3) uint8.
            targets: the photograph's crops at the records' size and target place.
            reduced: the faces, resized by the same records.
            jobs: `count` records `layout.RESIZE`.
            lanczos: enlarge the difference by Lanczos interpolation, otherwise by cubic.
        """
        blocks = _blocks(side, TILE) ** 2
        addresses = map(_address, (faces, targets, reduced, jobs))
        values = (*addresses, side, int(lanczos))
        self._run("project", (blocks, count), SHARED["project"], stream, *values)

    def mask(
        self,
        masks: Memory,
        photos: Memory,
        restored: Memory,
        spans: Memory,
        jobs: Memory,
        count: int,
        side: int,
        settings: MaskSettings,
        stream: Any,
    ) -> None:
        """Blending masks: outline, square, consistency with the photograph, and opacity.

        See `face_mask` and `consistency` in `runtime.faces.blend`.

        Args:
            masks: receives (`count`, side, side) float32 in 0..1.
            photos, restored: both at up to 16×16 pixels, at the records' places.
            spans: (`count`, side, 2) int16, first and last pixel of each row of the outline.
            jobs: `count` records `layout.MASK`.
        """
        addresses = map(_address, (masks, photos, restored, spans, jobs))
        fades = (settings.difference, settings.feather, settings.outline)
        values = (*addresses, side, *fades, settings.blur)
        grid = (_blocks(side * side, MASK_PIXELS), count)
        self._run("mask", grid, SHARED["mask"], stream, *values)

    def peaks(
        self, faces: Memory, masks: Memory, peaks: Memory, count: int, side: int, stream: Any
    ) -> None:
        """Largest value of each face and mask: `count` records `layout.PEAKS`, for `paste`."""
        addresses = map(_address, (faces, masks, peaks))
        self._run("peaks", (1, count), SHARED["peaks"], stream, *addresses, side, 0)

    def enlarge(self, source: Frame, target: Frame, stream: Any) -> None:
        """Enlarge a frame as OpenCV's INTER_CUBIC does, each channel by itself.

        Raises:
            ValueError: the frames differ in channels or depth, or the target is smaller.
        """
        if (source.channels, source.depth) != (target.channels, target.depth):
            raise ValueError("a frame and its enlargement differ in channels or depth")
        if target.width < source.width or target.height < source.height:
            raise ValueError("the enlargement is smaller than the frame")
        blocks = _blocks(target.width, THREADS) * target.height
        self._run("enlarge", (blocks, 1), 0, stream, source.record, target.record)

    def paste(
        self,
        picture: Frame,
        faces: Memory,
        masks: Memory,
        peaks: Memory,
        jobs: Memory,
        count: int,
        largest: int,
        side: int,
        stream: Any,
    ) -> None:
        """Blend faces into an enlarged picture, in place; see `runtime.faces.blend.paste`.

        Args:
            picture: 1 or 3 channels.
            faces: (`count`, side, side, 3) uint8, in the order of blending.
            masks: (`count`, side, side) float32.
            peaks: `count` records `layout.PEAKS`.
            jobs: `count` records `layout.PASTE`.
            largest: most pixels of a record's region.

        Raises:
            ValueError: the picture has 4 channels.
        """
        if picture.channels == 4:
            raise ValueError("faces are blended into pictures of 1 or 3 channels")
        addresses = map(_address, (faces, masks, peaks, jobs))
        values = (picture.record, *addresses, count, side)
        self._run("paste", (_blocks(largest, THREADS), count), 0, stream, *values)

    def landmarks(
        self, points: Memory, matrices: Memory, placed: Memory, faces: int, count: int, stream: Any
    ) -> None:
        """Map landmarks from restored faces to their picture; see `Crop.to_picture`.

        Args:
            points: (`faces`, `count`, 2) float32 pixels of the face.
            matrices: (`faces`, 2, 3) float64, `Crop.matrix` of each.
            placed: receives (`faces`, `count`, 2) float64 pixels of the picture.
        """
        addresses = map(_address, (points, matrices, placed))
        self._run("landmarks", (1, faces), 0, stream, *addresses, count, 0)

    def _run(
        self, name: str, grid: tuple[int, int], shared: int, stream: Any, *values: Any
    ) -> None:
        if not 0 < grid[0] < 2**31 or not 0 < grid[1] <= MOST_RECORDS:
            raise ValueError(f"{name}: {grid[0]}×{grid[1]} blocks are not within CUDA's limits")
        arguments = np.array(values, layout.ARGUMENTS[name]).tobytes()
        self._launch(name, grid, shared, arguments, stream)


def load_kernels() -> Kernels | None:
    """The kernels for the GPU whose context is current, through PyCUDA.

    Returns:
        None if they were not built, or this GPU, driver or PyCUDA cannot take them: the caller
        does the same work on the CPU. The reason is logged once.
    """
    path = next((place / FATBIN for place in PLACES if (place / FATBIN).is_file()), None)
    if path is None:
        report("not built here (make kernels)")
        return None
    try:
        cuda = importlib.import_module("pycuda.driver")
    except ImportError as error:
        report(f"pycuda cannot be imported: {error}")
        return None
    try:
        return Kernels(_PyCuda(cuda.module_from_file(str(path))))
    except cuda.Error as error:
        report(f"{path} does not load: {error}")
        return None


class _PyCuda:
    """Launches the kernels of a loaded module, which it keeps."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._functions = {
            name: module.get_function(f"dic_{name}").prepare([arguments])
            for name, arguments in layout.ARGUMENTS.items()
        }

    def __call__(
        self, name: str, grid: tuple[int, int], shared: int, arguments: bytes, stream: Any
    ) -> None:
        self._functions[name].prepared_async_call(
            grid, (THREADS, 1, 1), stream, arguments, shared_size=shared
        )


@functools.cache
def report(reason: str) -> None:
    """Log once that frames are processed on the CPU, for a reason."""
    log.warning("frames are processed on the CPU, without the CUDA kernels: %s", reason)


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _address(memory: Memory) -> int:
    return memory.pointer if isinstance(memory, DeviceArray) else memory
