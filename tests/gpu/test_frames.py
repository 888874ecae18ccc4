"""Photographs and videos processed in GPU memory, on a simulated GPU whose kernels are the real
bodies compiled for a CPU: they equal the CPU's path within a level, and cross the bus once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import Faults, Machine
from simulated.make import make_plan

from benchmarks import gpu_parts
from dic.console import UserError
from dic.engine_file import EngineError
from runtime import FaceRestorer
from runtime.engines.arrays import DeviceArray
from runtime.engines.contract import Engine
from runtime.engines.load import load_engine
from runtime.faces import restore
from runtime.faces.crop import Crop
from runtime.faces.restore import RestoredPhoto
from runtime.pictures.picture import Picture

# Two that overlap, the larger first; a turned one at the edge; one that begins outside.
CROPS = [Crop(20, 8, 40), Crop(8, 20, 22), Crop(52, 30, 24, angle=25.0), Crop(-7, -5, 18)]


def photograph(seed: int = 0, height: int = 60, width: int = 77, **changes: Any) -> Picture:
    """Smooth, so that restored faces agree with it here and there, and are blended."""
    import cv2

    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return replace(Picture(cv2.GaussianBlur(noise, (0, 0), 5)), **changes)


@pytest.fixture
def plan(tiny_engine: Path, tmp_path: Path) -> Path:
    return make_plan(tiny_engine, tmp_path / "dic.trt", "tensorrt")


@pytest.fixture
def engine(plan: Path, machine: Machine, fatbin: Path) -> Iterator[Engine]:
    with load_engine(plan, "cuda") as opened:
        yield opened


@pytest.fixture(scope="module")
def host(tiny_engine: Path) -> Iterator[FaceRestorer]:
    with FaceRestorer(tiny_engine, device="cpu") as restorer:
        yield restorer


def off(one: Picture, other: Picture) -> int:
    """Greatest difference in 8-bit levels."""
    assert one.pixels.shape == other.pixels.shape
    step = 257 if one.pixels.dtype == np.uint16 else 1
    difference = np.abs(one.pixels.astype(int) - other.pixels)
    return int(-(-difference.max() // step))


def same(given: RestoredPhoto, wanted: RestoredPhoto) -> None:
    assert given.scale == wanted.scale
    assert off(given.picture, wanted.picture) <= 1
    assert [face.crop for face in given.faces] == [face.crop for face in wanted.faces]


def test_a_photograph_goes_to_the_gpu_once_and_its_result_back_once(
    engine: Engine, machine: Machine, host: FaceRestorer
) -> None:
    photo = photograph()
    wanted = host.restore_photo(photo, CROPS, enlarge=3)
    with FaceRestorer(engine) as restorer:
        restorer.restore_photo(photo, CROPS)  # the engine tries out a batch size when it is new
        machine.copies.clear()
        given = restorer.restore_photo(photo, CROPS, enlarge=3)
        copied = list(machine.copies)
    same(given, wanted)
    assert (given.image != host.restore_photo(photo, [], enlarge=3).image).any(), "no face blended"
    up, down = ([n for way, n in copied if way == name] for name in ("up", "down"))
    assert up.count(photo.pixels.nbytes) == 1
    assert down.count(given.picture.pixels.nbytes) == 1
    records, landmarks = sum(up) - photo.pixels.nbytes, sum(down) - given.image.nbytes
    assert records < 1500 * len(CROPS), "records and outlines"
    assert landmarks == len(CROPS) * 68 * 3 * 4, "landmarks and scores"
    # A face is copied when somebody looks at it, even after all else is closed, and once.
    machine.copies.clear()
    assert given.faces[0].side == 128
    assert isinstance(given.faces[0].pixels, DeviceArray)
    assert not machine.copies
    for face, expected in zip(given.faces, wanted.faces, strict=True):
        for _ in range(2):
            assert np.abs(face.image.astype(int) - expected.image).max() <= 1
    assert machine.copies == [("down", 128 * 128 * 3)] * len(CROPS)


KINDS: dict[str, dict[str, Any]] = {
    "lossless": {"quantisation": 0.0},
    "coarse": {"quantisation": 58.0},
    "grey": {"pixels": photograph(1).pixels[:, :, :1]},
    "deep": {"pixels": photograph(2).pixels.astype(np.uint16) * 257},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture(
    kind: str, engine: Engine, machine: Machine, host: FaceRestorer
) -> None:
    photo = photograph(**KINDS[kind])
    with FaceRestorer(engine) as restorer:
        for scale in (1, 2):
            given = restorer.restore_photo(photo, CROPS, enlarge=scale)
            same(given, host.restore_photo(photo, CROPS, enlarge=scale))
    assert "paste" in machine.launches


def test_faces_are_cropped_again_by_their_landmarks(
    engine: Engine, machine: Machine, host: FaceRestorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a crop has grown beyond what the kernels shrink: then in host memory."""
    photo = photograph()

    class Known:
        def find(self, image: Any) -> list[Crop]:
            return CROPS

    for grown in (31, 1340):
        moved = {CROPS[1]: replace(CROPS[1], size=grown)}
        monkeypatch.setattr(restore, "refine", lambda crop, *_, to=moved: to.get(crop, crop))
        given, wanted = (
            FaceRestorer(which, detector=Known()).restore_photo(photo, max_face=2000, enlarge=1)
            for which in (engine, host.engine)
        )
        same(given, wanted)
        assert [face.crop.size for face in given.faces] == [40, grown, 24, 16]
        assert isinstance(given.faces[0].pixels, DeviceArray) is (grown == 31)


class Blind:
    """An engine without landmarks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, feed: Any) -> dict[str, Any]:
        return {"face": self._engine.run(feed)["face"]}


def test_an_engine_without_landmarks(engine: Engine, machine: Machine, host: FaceRestorer) -> None:
    photo = photograph()
    given, wanted = (
        FaceRestorer(Blind(which)).restore_photo(photo, CROPS, enlarge=2)  # type: ignore[arg-type]
        for which in (engine, host.engine)
    )
    same(given, wanted)
    assert given.faces[0].landmarks is None
    assert "paste" in machine.launches


def test_the_second_gpu(plan: Path, machine: Machine, fatbin: Path, host: FaceRestorer) -> None:
    machine.add_gpu()
    photo = photograph()
    with FaceRestorer(plan, device="cuda:1") as restorer:
        given = restorer.restore_photo(photo, CROPS, enlarge=2)
    same(given, host.restore_photo(photo, CROPS, enlarge=2))
    assert "paste" in machine.launches
    assert given.faces[1].image.std() > 0


NOT_COVERED: dict[str, tuple[dict[str, Any], dict[str, Any], Sequence[Crop]]] = {
    "transparent": ({"alpha": np.full((60, 77), 200, np.uint8)}, {"enlarge": 2}, CROPS),
    "lanczos": ({}, {"background": "lanczos", "enlarge": 2}, CROPS),
    "too large": ({}, {"max_face": 2000}, [Crop(-600, -600, 1340)]),
}


@pytest.mark.parametrize("what", NOT_COVERED)
def test_what_the_kernels_do_not_cover_is_processed_in_host_memory(
    what: str,
    engine: Engine,
    machine: Machine,
    host: FaceRestorer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes, options, crops = NOT_COVERED[what]
    photo = photograph(**changes)
    wanted = host.restore_photo(photo, crops, **options)
    with FaceRestorer(engine) as restorer:
        for _ in range(2):
            same(restorer.restore_photo(photo, crops, **options), wanted)
    assert not machine.launches
    assert what in caplog.text
    assert caplog.text.count("without the CUDA kernels") == 1


def test_without_the_kernels_file_all_is_done_in_host_memory(
    engine: Engine,
    machine: Machine,
    fatbin: Path,
    host: FaceRestorer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fatbin.unlink()
    for _ in range(2):
        with FaceRestorer(engine) as restorer:
            given = restorer.restore_photo(photograph(), CROPS)
            same(given, host.restore_photo(photograph(), CROPS))
    assert not machine.launches
    assert caplog.text.count("make kernels") == 1


def test_pictures_like_those_before_allocate_nothing(engine: Engine, machine: Machine) -> None:
    """But for the engine's results, which come from a pool that keeps its memory."""
    with FaceRestorer(engine) as restorer:
        restorer.restore_photo(photograph(), CROPS, enlarge=3)
        before = machine.allocations - machine.pooled
        for crops in (CROPS, CROPS[:2], CROPS[::-1]):
            restorer.restore_photo(photograph(3), crops, enlarge=3)
        assert machine.allocations - machine.pooled == before


def test_a_workspace_that_has_grown_large_is_freed(
    engine: Engine, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaceRestorer(engine) as restorer:
        restorer.restore_photo(photograph(), CROPS[:1])
        kept = machine.settle()
        monkeypatch.setattr("runtime.faces.gpu.KEPT", 1000)
        restorer.restore_photo(photograph(), CROPS[:1])
        assert machine.settle() < kept - 10, "its stream and buffers"


def test_out_of_memory_anywhere_leads_to_host_memory(
    engine: Engine, machine: Machine, host: FaceRestorer, caplog: pytest.LogCaptureFixture
) -> None:
    photo = photograph()
    wanted = host.restore_photo(photo, CROPS, enlarge=2)
    before = machine.allocations
    with FaceRestorer(engine) as restorer:
        restorer.restore_photo(photo, CROPS, enlarge=2)
    every, live = machine.allocations - before, machine.settle()
    assert every > 15
    for number in range(1, every + 1):
        caplog.clear()
        launches = len(machine.launches)
        machine.faults = Faults(oom_at=frozenset({machine.allocations + number}))
        with FaceRestorer(engine) as restorer:
            given = restorer.restore_photo(photo, CROPS, enlarge=2)
            same(given, wanted)
            assert caplog.text.count("out of memory") == 1, number
            assert isinstance(given.faces[0].pixels, np.ndarray)
            if number % 4 == 0:
                same(restorer.restore_photo(photo, CROPS, enlarge=2), wanted)
                assert len(machine.launches) > launches, "the next one is on the GPU again"
        assert not machine.violations, number
    del given
    assert machine.settle() <= live, "something was not freed"


def test_a_broken_gpu_is_one_error(engine: Engine, machine: Machine) -> None:
    with FaceRestorer(engine) as restorer:
        machine.faults.sticky_at = machine.executions + 1
        with pytest.raises(EngineError, match="illegal memory access") as caught:
            restorer.restore_photo(photograph(), CROPS)
        assert "\n" not in str(caught.value)
    del caught


def test_photographs_of_many_threads(engine: Engine, machine: Machine, host: FaceRestorer) -> None:
    """More threads than workspaces and lanes, faces of several photographs in one batch."""
    photos = [photograph(seed, 40 + 7 * seed, 60 + 5 * seed) for seed in range(8)]
    crops = [CROPS[: 1 + n % 4] for n in range(8)]
    wanted = [host.restore_photo(*pair, enlarge=2) for pair in zip(photos, crops, strict=True)]
    with FaceRestorer(engine) as restorer, ThreadPoolExecutor(8) as pool:
        given = list(
            pool.map(
                lambda pair: restorer.restore_photo(*pair, enlarge=2),
                zip(photos, crops, strict=True),
            )
        )
    for one, expected in zip(given, wanted, strict=True):
        same(one, expected)
    assert machine.launches.count("paste") == 8


def test_the_gpu_check_of_photographs(
    plan: Path,
    machine: Machine,
    fatbin: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a real GPU is checked with, when there is one."""
    monkeypatch.setattr(gpu_parts, "PHOTO", (90, 260))
    monkeypatch.setattr(gpu_parts, "PHOTOS", 1)
    gpu_parts.part_photographs(str(plan))
    found = re.search(r"answer: .* differ by up to (\d+) levels", capsys.readouterr().out)
    assert found
    assert int(found[1]) <= 1
    fatbin.unlink()
    with pytest.raises(UserError, match="not processed in GPU memory"):
        gpu_parts.part_photographs(str(plan))
