"""`python -m benchmarks.portraits`: two real portraits, shrunk, restored, and compared.

Both are in the public domain and installed with packages: scikit-image's astronaut (Eileen
Collins) and Matplotlib's Grace Hopper. No network was trained on them. Each is shrunk until the
square around its face is some pixels wide, restored as `runtime.infer --faces` does, and its face
held against the original's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import machine
from dic.console import Parser, run
from dic.engine_file import EngineError, engine_files
from dic.files import write_json, write_whole
from dic.metrics import psnr
from dic.outputs import check_outputs
from dic.sizes import SR_SIZE
from runtime.engines.contract import SHIPPED
from runtime.engines.load import load_engine
from runtime.faces.crop import Crop, cut
from runtime.faces.detect import YuNetDetector
from runtime.faces.restore import Restorer
from runtime.pictures.encode import encode_picture
from runtime.pictures.picture import Picture
from runtime.pictures.sheet import captioned, joined, tile

WIDTHS = (16, 20, 24, 32, 40)  # pixels of the square around the face
SHOWN = (16, 24)  # on the sheet
TILE = 192
KEYS = ("name", "width", "bicubic", "restored")
BICUBIC = Image.Resampling.BICUBIC

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Comparison:
    """One portrait at one size.

    Attributes:
        name: of the portrait.
        width: of the square around its face, pixels.
        bicubic: PSNR of the face enlarged bicubically, dB.
        restored: PSNR of the restored face, dB.
        faces: the same face (128, 128, 3): shrunk, bicubic, restored, original.
    """

    name: str
    width: int
    bicubic: float
    restored: float
    faces: tuple[Bytes, Bytes, Bytes, Bytes]


def astronaut() -> Bytes:
    """(512, 512, 3) uint8 RGB (NASA, public domain)."""
    import skimage.data

    return np.ascontiguousarray(skimage.data.astronaut())


def grace_hopper() -> Bytes:
    """(600, 512, 3) uint8 RGB (US Navy, public domain)."""
    from matplotlib.cbook import get_sample_data

    with Image.open(str(get_sample_data("grace_hopper.jpg", asfileobj=False))) as image:
        return np.asarray(image.convert("RGB"))


PORTRAITS = {"astronaut": astronaut, "Grace Hopper": grace_hopper}


def shrunk(original: Bytes, face: Crop, width: int) -> Bytes:
    """The photograph shrunk until the square around its face is `width` pixels wide."""
    height, across = (round(side * width / face.size) for side in original.shape[:2])
    return np.asarray(Image.fromarray(original).resize((across, height), BICUBIC))


def compare(name: str, original: Bytes, small: Bytes, restored: Bytes, face: Crop) -> Comparison:
    """Hold a face against the original's.

    Args:
        original: (H, W, 3) uint8 RGB.
        small: the photograph that was restored, of any size.
        restored: the result, of any size.
        face: the face's square in the original.
    """
    size = (original.shape[1], original.shape[0])
    whole = (
        np.asarray(Image.fromarray(image).resize(size, way))
        for image, way in (
            (small, Image.Resampling.NEAREST),
            (small, BICUBIC),
            (restored, BICUBIC),
            (original, BICUBIC),
        )
    )
    seen, bicubic, ours, truth = (_face(image, face) for image in whole)
    width = round(face.size * small.shape[1] / original.shape[1])
    scores = (psnr(bicubic, truth), psnr(ours, truth))
    return Comparison(name, width, *scores, (seen, bicubic, ours, truth))


def _face(image: Bytes, face: Crop) -> Bytes:
    return np.asarray(Image.fromarray(cut(image, face)).resize((SR_SIZE, SR_SIZE), BICUBIC))


def measure(restorer: Restorer, widths: tuple[int, ...] = WIDTHS) -> list[Comparison]:
    """All portraits at all sizes."""
    comparisons = []
    for name, load in PORTRAITS.items():
        original = load()
        face = YuNetDetector().find(original)[0]
        for width in widths:
            small = shrunk(original, face, width)
            restored = restorer.restore_photo(small).image
            comparisons.append(compare(name, original, small, restored, face))
    return comparisons


def sheet(comparisons: list[Comparison], side: int = TILE) -> Bytes:
    """A row for each comparison: shrunk, bicubic, restored, original; uint8 RGB."""
    rows = []
    for given in comparisons:
        captions = (
            f"{given.width} pixels",
            f"bicubic {given.bicubic:.1f} dB",
            f"restored {given.restored:.1f} dB",
            "original",
        )
        tiles = zip(captions, given.faces, strict=True)
        rows.append(joined([captioned(text, tile(face, side)) for text, face in tiles], axis=1))
    return joined(rows, axis=0)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of the comparisons in a results file."""
    lines = ["| portrait | face, pixels | bicubic, dB | restored, dB | gain, dB |"]
    lines.append("|---|--:|--:|--:|--:|")
    for row in rows:
        name, width, bicubic, restored = (row[key] for key in KEYS)
        gain = restored - bicubic
        lines.append(f"| {name} | {width} | {bicubic:.2f} | {restored:.2f} | {gain:+.2f} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.portraits",
        description="Shrink two real portraits, restore them, and compare with the originals.",
    )
    parser.add_argument("--engine", type=Path, default=SHIPPED, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write a sheet of the faces (.png or .jpg): shrunk, bicubic, restored, original",
    )
    options = parser.parse_args(arguments)
    if options.out and options.out.suffix not in (".png", ".jpg"):
        parser.error(f"--out {options.out}: name a .png or .jpg file")
    check_outputs(filter(None, (options.json, options.out)), engine_files(options.engine))
    with load_engine(options.engine, "cpu") as engine:
        comparisons = measure(Restorer(engine))
    rows = [{key: getattr(given, key) for key in KEYS} for given in comparisons]
    print(table(rows))
    if options.json:
        content = {"machine": asdict(machine.machine("benchmarks.portraits")), "portraits": rows}
        write_json(options.json, content)
    if options.out:
        shown = [given for given in comparisons if given.width in SHOWN]
        write_whole(options.out, encode_picture(Picture(sheet(shown)), options.out.suffix))
        print(f"\nLook at {options.out}")
    return 0


def cli() -> NoReturn:
    run(main, "benchmarks", EngineError)


if __name__ == "__main__":
    cli()
