"""`python -m benchmarks.demo`: restore a small photograph and write a picture for comparison.

The photograph is scikit-image's `astronaut` (NASA, public domain), shrunk until the square around
the face, from hair to chin, is 16 pixels wide, the network's input size. It is restored with the
`runtime.infer` command.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dic.console import Parser, UserError, run
from dic.files import write_whole
from dic.metrics import psnr
from dic.sizes import LQ_SIZE
from runtime.faces.crop import Crop, cut
from runtime.faces.detect import YuNetDetector
from runtime.pictures.files import Picture, encode_picture, read_picture

TILE = 384
GAP = 8
CAPTION = 28

Bytes = NDArray[np.uint8]


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.demo", description="Restore a small photograph and compare."
    )
    parser.add_argument("--engine", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)

    original = astronaut()
    face = YuNetDetector().find(original)[0]
    side = round(original.shape[0] * LQ_SIZE / face.size)
    small = np.asarray(Image.fromarray(original).resize((side, side), Image.Resampling.BICUBIC))
    source, target = options.out / "small.png", options.out / "restored.png"
    write_whole(source, encode_picture(Picture(small), ".png"))
    command = [sys.executable, "-m", "runtime.infer", str(source), "-o", str(target)]
    command += ["--engine", str(options.engine), "--faces"]
    print("$", " ".join(["python", *command[1:]]), flush=True)
    status = subprocess.run(command, check=False).returncode
    if status:
        raise UserError(f"{source}: python -m runtime.infer failed with status {status}; see above")
    restored = read_picture(target).rgb()
    picture, figures = compare(small, restored, original, face)
    comparison = options.out / "comparison.png"
    write_whole(comparison, encode_picture(Picture(picture), ".png"))
    print(f"\nPSNR of the photograph's face: {figures}")
    print(f"Wrote {comparison}")
    return 0


def astronaut() -> Bytes:
    """The photograph, (512, 512, 3) uint8 RGB."""
    import skimage.data

    return np.ascontiguousarray(skimage.data.astronaut())


def compare(small: Bytes, restored: Bytes, original: Bytes, face: Crop) -> tuple[Bytes, str]:
    """Compose a picture: photographs above, their faces below; small, bicubic, restored, original.

    Args:
        small: the input, (h, w, 3) uint8 RGB.
        restored: the output, (H, W, 3) uint8 RGB.
        original: the ground truth, (512, 512, 3) uint8 RGB.
        face: the face's square in the original.

    Returns:
        the picture, uint8 RGB, and the faces' PSNR as text.
    """
    size = (original.shape[1], original.shape[0])
    pixels = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.NEAREST))
    bicubic = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
    ours = np.asarray(Image.fromarray(restored).resize(size, Image.Resampling.BICUBIC))
    columns = []
    scores = {}
    named = (("small", pixels), ("bicubic", bicubic), ("restored", ours), ("original", original))
    for name, image in named:
        crop = cut(image, face)
        if name in ("bicubic", "restored"):
            scores[name] = psnr(_tile(crop, 128), _tile(cut(original, face), 128))
        whole, part = _tile(image, TILE), _tile(crop, TILE)
        gap = np.full((GAP, TILE, 3), 255, np.uint8)
        columns.append(np.concatenate((_caption(name), whole, gap, part)))
    space = np.full((columns[0].shape[0], GAP, 3), 255, np.uint8)
    rows = [piece for column in columns for piece in (column, space)][:-1]
    figures = ", ".join(f"{name} {score:.2f} dB" for name, score in scores.items())
    return np.concatenate(rows, axis=1), figures


def _tile(image: Bytes, side: int) -> Bytes:
    way = Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((side, side), way))


def _caption(text: str) -> Bytes:
    strip = np.full((CAPTION, TILE, 3), 255, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(strip, text, (4, CAPTION - 9), font, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def cli() -> NoReturn:
    run(main, "benchmarks")


if __name__ == "__main__":
    cli()
