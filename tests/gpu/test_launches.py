"""The CUDA kernels' structures, launches and limits, loading them, and compiling them."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from host_kernels import ROOT, HostLauncher, library

from runtime.cuda import kernels as kernels_module
from runtime.cuda import layout
from runtime.cuda.kernels import MOST_SHARED, SHARED, Frame, Kernels, load_kernels, resize_shared
from runtime.engines.arrays import DeviceArray
from runtime.faces.records import as_bytes

SIDE = 128


def test_structures_and_memory_are_those_of_the_headers() -> None:
    loaded = library()
    for name, structure in layout.ARGUMENTS.items():
        assert structure.itemsize == getattr(loaded, f"dic_{name}_size")(), name
    for name, size in SHARED.items():
        assert size == getattr(loaded, f"dic_{name}_shared")(), name
    for sizes in ((5, 9), (33, 32), (1328, 16), (128, 1), (200, 1), (128, 128)):
        assert resize_shared(*sizes) == loaded.dic_resize_shared(*sizes) <= MOST_SHARED, sizes


def test_arrays_are_packed_for_one_upload() -> None:
    arrays = [np.arange(3, dtype=np.int16), np.arange(5.0), np.zeros(2, layout.CROP)]
    packed, places = as_bytes(*arrays)
    assert [place % 16 for place in places] == [0, 0, 0]
    for array, place in zip(arrays, places, strict=True):
        assert packed[place : place + array.nbytes].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "values",
    [
        {"width": 0},
        {"channels": 2},
        {"depth": 4},
        {"stride": 29},
        {"depth": 2, "stride": 61},
        {"depth": 2, "pixels": 4097},
        {"width": 2**16, "height": 2**15},
    ],
)
def test_frames_that_no_kernel_takes_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"frame|stride"):
        Frame(**{"pixels": 4096, "width": 10, "height": 4, **values})


def test_launches_outside_cudas_limits_are_refused() -> None:
    kernels = Kernels(HostLauncher())
    frame = Frame(4096, 10, 4)
    with pytest.raises(ValueError, match="CUDA's limits"):
        kernels.cut(frame, 0, 65_536, 10, 0, None)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        kernels.paste(Frame(4096, 10, 4, 4), 0, 0, 0, 0, 1, 9, SIDE, None)
    with pytest.raises(ValueError, match="smaller"):
        kernels.enlarge(frame, Frame(4096, 9, 4), None)
    with pytest.raises(ValueError, match="differ"):
        kernels.enlarge(frame, Frame(4096, 10, 4, 1), None)


class Driver(types.ModuleType):
    """What `load_kernels` uses of pycuda.driver, with its signatures."""

    class Error(Exception):
        pass

    def __init__(self, broken: bool = False) -> None:
        super().__init__("pycuda.driver")
        self.broken, self.launched = broken, []

    def module_from_file(self, path: str) -> Any:
        if self.broken:
            raise Driver.Error("cuModuleLoad failed: no kernel image for the device")
        return self

    def get_function(self, name: str) -> Any:
        function = mock.Mock()
        function.prepare.side_effect = lambda types: self._prepared(name, *types)
        return function

    def _prepared(self, name: str, structure: np.dtype) -> Any:
        function = mock.Mock()

        def call(grid: Any, block: Any, stream: Any, *values: bytes, shared_size: int = 0) -> None:
            assert [len(value) for value in values] == [structure.itemsize]
            self.launched.append((name, grid, block, stream, shared_size))

        function.prepared_async_call.side_effect = call
        return function


def test_kernels_are_launched_through_pycuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / kernels_module.FATBIN).touch()
    monkeypatch.setattr(kernels_module, "PLACES", (tmp_path,))
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pycuda", types.ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    loaded = load_kernels()
    assert loaded is not None
    points = DeviceArray(4096, (2, 68, 2), np.dtype(np.float32), 0, None)
    loaded.landmarks(points, 4096, 4096, 2, 68, "stream")
    loaded.peaks(4096, 4096, 4096, 3, SIDE, "stream")
    assert driver.launched == [
        ("dic_landmarks", (1, 2), (256, 1, 1), "stream", 0),
        ("dic_peaks", (1, 3), (256, 1, 1), "stream", 2048),
    ]


@pytest.mark.parametrize("missing", ["fatbin", "pycuda", "image"])
def test_missing_kernels_are_reported_once(
    missing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kernels_module.report.cache_clear()
    monkeypatch.setattr(kernels_module, "PLACES", (tmp_path,))
    if missing != "fatbin":
        (tmp_path / kernels_module.FATBIN).touch()
    driver = Driver(broken=True) if missing == "image" else None
    monkeypatch.setitem(sys.modules, "pycuda", types.ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    with caplog.at_level(logging.WARNING):
        assert load_kernels() is None
        assert load_kernels() is None
    assert len(caplog.records) == 1
    assert "on the CPU" in caplog.text


@pytest.mark.skipif(shutil.which("cmake") is None, reason="there is no CMake")
def test_cmake_builds_and_ctest_passes(tmp_path: Path) -> None:
    """One architecture; `make kernels` compiles for all. Warnings are errors."""
    script = (ROOT / "CMakeLists.txt").read_text()
    assert "-Werror all-warnings" in script
    for command in (
        ["cmake", "-B", str(tmp_path), "-S", str(ROOT), "-DDIC_CUDA_ARCHITECTURES=90"],
        ["cmake", "--build", str(tmp_path)],
        ["ctest", "--test-dir", str(tmp_path), "-R", "bodies", "--no-tests=error"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    if not shutil.which("nvcc"):
        return  # what runs on a CPU was built and tested
    assert (tmp_path / kernels_module.FATBIN).stat().st_size > 10_000
    said = (tmp_path / "ptxas.txt").read_text()
    for name in layout.ARGUMENTS:
        assert f"'dic_{name}'" in said
