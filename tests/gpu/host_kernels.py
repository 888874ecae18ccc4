"""The CUDA kernels' bodies, compiled for the CPU: built once, and launched as on a GPU."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from runtime.cuda import layout
from runtime.cuda.kernels import Frame, Kernels

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "cuda"


@functools.cache
def library() -> ctypes.CDLL:
    """The host library of CMakeLists.txt, built if need be: by one process of a test run."""
    built = os.environ.get("DIC_KERNELS_HOST")  # ctest's
    if built is None:
        if not shutil.which("cmake"):
            pytest.skip("no CMake to build the kernels for the CPU with")
        BUILD.mkdir(parents=True, exist_ok=True)
        with FileLock(BUILD / "tests.lock"):
            for command in (
                ["cmake", "-B", str(BUILD), "-S", str(ROOT)],
                ["cmake", "--build", str(BUILD), "--target", "dic_kernels_host"],
            ):
                done = subprocess.run(command, capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr
        built = str(BUILD / "libdic_kernels_host.so")
    loaded = ctypes.CDLL(built)
    for name in layout.ARGUMENTS:
        function = getattr(loaded, f"dic_{name}")
        function.argtypes = (ctypes.c_char_p, *(ctypes.c_int,) * 4)
        function.restype = None
    return loaded


class HostLauncher:
    """A `Launcher` that runs kernels on the CPU at once.

    Args:
        backwards: run blocks and threads in reverse, which must make no difference.
    """

    def __init__(self, backwards: bool = False) -> None:
        self.backwards = backwards

    def __call__(
        self, name: str, grid: tuple[int, int], shared: int, arguments: bytes, stream: Any
    ) -> None:
        # A copy, because bytes are not aligned as the structure has to be.
        words = (ctypes.c_double * -(-len(arguments) // 8))()
        ctypes.memmove(words, arguments, len(arguments))
        getattr(library(), f"dic_{name}")(
            ctypes.cast(words, ctypes.c_char_p), *grid, shared, self.backwards
        )


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def both_ways(run: Callable[[Kernels], np.ndarray]) -> np.ndarray:
    """The result of kernels, which is the same backwards."""
    forwards, backwards = (run(Kernels(HostLauncher(way))) for way in (False, True))
    np.testing.assert_array_equal(forwards, backwards)
    return forwards


def framed(pixels: np.ndarray, gap: int = 0) -> tuple[Frame, np.ndarray]:
    """A frame whose rows are `gap` values apart, and the memory in which it lies."""
    height, width, channels = pixels.shape
    memory = np.full((height, width * channels + gap), 77, pixels.dtype)
    memory[:, : width * channels] = pixels.reshape(height, -1)
    depth = pixels.dtype.itemsize
    return Frame(address(memory), width, height, channels, depth, memory.strides[0]), memory


def unframed(memory: np.ndarray, shape: tuple[int, ...], gap: int) -> np.ndarray:
    assert gap == 0 or (memory[:, -gap:] == 77).all(), "wrote between the rows"
    return memory[:, : shape[1] * shape[2]].reshape(shape)
