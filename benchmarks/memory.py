"""`python -m benchmarks.memory`: the memory that files take, beside what their headers promise.

Each picture is of noise, which compresses worst. It is searched for faces; squares in it are then
restored, blended, encoded and written as `runtime.infer` does with faces.
"""

from __future__ import annotations

import ctypes
import gc
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from benchmarks import memory_videos
from benchmarks.report.markdown import table
from benchmarks.report.rows import check_parts, read_kept
from dic.console import Parser, UserError, run
from dic.files import write_json
from dic.memory import Memory, resident
from dic.outputs import check_outputs
from runtime.engines.load import load_engine
from runtime.faces.crop import Crop
from runtime.faces.detect import YuNetDetector, search_bytes
from runtime.faces.options import MAX_FACE, PhotoOptions
from runtime.faces.restore import Restorer
from runtime.jobs.needs import Need, aligned_need, photo_need
from runtime.jobs.paths import Job
from runtime.jobs.pictures import PictureWork
from runtime.pictures.encode import encode_picture
from runtime.pictures.files import read_header
from runtime.pictures.picture import Picture

FACES = (24, 60, MAX_FACE)  # sides of the restored squares, pixels
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Found(YuNetDetector):
    """Searches as YuNet does, and finds squares in any picture."""

    def find(self, image: NDArray[np.uint8]) -> list[Crop]:
        super().find(image)
        return [Crop(20 * n, 30 * n, side) for n, side in enumerate(FACES)]


@dataclass(frozen=True)
class Case:
    """One picture.

    Attributes:
        side: pixels.
        mode: "L", "RGB" or "RGBA".
        depth: bits of a sample.
        suffix: of the file, and of the result.
        enlarge: times; 0 restores an aligned face.
    """

    side: int
    mode: str
    depth: int
    suffix: str
    enlarge: int


CASES = (
    *(Case(side, "RGB", 8, ".png", 1) for side in (1000, 4000, 8000)),
    *(Case(4000, "RGB", 8, suffix, 1) for suffix in (".jpg", ".tif", ".bmp")),
    *(Case(1500, "RGB", 8, suffix, 4) for suffix in (".png", ".webp")),
    Case(4000, "RGB", 16, ".png", 1),
    Case(4000, "RGBA", 8, ".png", 1),
    *(Case(2000, mode, depth, ".png", 2) for mode in ("L", "RGBA") for depth in (8, 16)),
    *(Case(side, "RGB", 8, ".png", 0) for side in (1000, 8000)),
)


def measure(cases: tuple[Case, ...] = CASES) -> list[dict[str, Any]]:
    """What each case needs by its header, and took at most, in bytes.

    Raises:
        UserError: the system does not tell how much memory a process has taken.
    """
    if not CLEAR.exists():
        raise UserError("benchmarks.memory needs Linux's /proc")
    rows = []
    with load_engine(device="cpu") as engine, tempfile.TemporaryDirectory() as folder:
        restorer = Restorer(engine, detector=Found())
        _measured(Case(300, "RGB", 8, ".png", 1), restorer, Path(folder))  # makes arenas
        for case in cases:
            need, took = _measured(case, restorer, Path(folder))
            rows.append({**asdict(case), "need": need.bytes, "took": took})
            print(f"{case}: needs up to {need.bytes / 1e6:.0f} MB, took {took / 1e6:.0f} MB")
    return rows


def _measured(case: Case, restorer: Restorer, folder: Path) -> tuple[Need, int]:
    data = encode_picture(_noise(case), case.suffix)
    header = read_header("a picture", data)
    source, target = folder / f"in{case.suffix}", folder / f"out{case.suffix}"
    source.write_bytes(data)
    if case.enlarge:
        options = PhotoOptions(enlarge=case.enlarge)
        search = search_bytes(restorer.detector, header.pixels)
        need = photo_need(header, len(data), case.suffix, options, search)
    else:
        options, need = None, aligned_need(header, len(data))
    del data
    work = PictureWork(restorer, options, None, Memory(None))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident()
    CLEAR.write_text("5")  # proc(5): the peak begins anew
    done = work(Job(source, target, {}, named=False))
    if done.status != "restored":
        raise UserError(f"{case}: {done.message}")
    lines = STATUS.read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return need, peak - before


def _noise(case: Case) -> Picture:
    dtype = np.uint8 if case.depth == 8 else np.uint16
    rng = np.random.default_rng(0)
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[case.mode]
    shape = (case.side, case.side, channels)
    pixels = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    if case.mode != "RGBA":
        return Picture(pixels)
    return Picture(np.ascontiguousarray(pixels[:, :, :3]), np.ascontiguousarray(pixels[:, :, 3]))


def summary(rows: list[dict[str, Any]]) -> str:
    """The results as a table."""
    shown = [
        [
            f"{row['side']}×{row['side']} {row['mode']}, {row['depth']} bits, {row['suffix'][1:]}",
            f"{row['enlarge']}×" if row["enlarge"] else "aligned",
            f"{row['need'] / 1e6:.0f}",
            f"{row['took'] / 1e6:.0f}",
            f"{row['need'] / row['took']:.2f}",
        ]
        for row in rows
    ]
    return table(["picture of noise", "enlarged", "bound, MB", "peak, MB", "bound/peak"], shown)


def videos() -> list[dict[str, Any]]:
    """The results of videos; see `memory_videos`."""
    with load_engine(device="cpu") as engine, tempfile.TemporaryDirectory() as folder:
        restorer = Restorer(engine, detector=Found())
        _measured(Case(300, "RGB", 8, ".png", 1), restorer, Path(folder))  # makes arenas
        restorer = Restorer(engine, detector=memory_videos.Square())
        return memory_videos.measured_videos(restorer, Path(folder))


KINDS = {"pictures": (measure, summary), "videos": (videos, memory_videos.summary)}


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.memory",
        description="Compare the memory that pictures and videos take with the bounds by their "
        "headers.",
    )
    add = parser.add_argument
    add("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)} (default: all)")
    add("--json", type=Path, metavar="FILE",
        help="write the results as JSON; those of other kinds in FILE are kept")  # fmt: skip
    options = parser.parse_args(arguments)
    check_parts(parser, options.kinds, KINDS)
    check_outputs(filter(None, [options.json]), [])
    kept = read_kept(options.json)
    found = {}
    for name in options.kinds or KINDS:
        found[name] = KINDS[name][0]()
        print(KINDS[name][1](found[name]))
    exceeded = sum(row["took"] > row["need"] for rows in found.values() for row in rows)
    if exceeded:
        print(f"{exceeded} files took more than their bound")
    if options.json:
        write_json(options.json, kept | found)
    return 1 if exceeded else 0


def cli() -> NoReturn:
    run(main, "benchmarks")


if __name__ == "__main__":
    cli()
