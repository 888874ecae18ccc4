"""`python -m benchmarks.detector`: recall, false detections and speed of the face detector.

Measured by face width (ear to ear) on scaled portraits, on the darkest and on the most turned fifth
of them, by rotation on faces 60 pixels wide, and on a mosaic of many faces. A face counts as
detected if a detection's centre is within 0.3 of the side of the face's square from its centre, on
each axis, and its side is 0.6 to 1.6 times the square's. False detections are also counted in
scikit-image's pictures without a face, at several sizes and mirrored.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import machine
from dic.console import Parser, UserError, run
from dic.files import write_json
from dic.landmarks import COMPONENT_GROUPS
from dic.progress import Progress
from runtime.faces.crop import Crop
from runtime.faces.detect import YuNetDetector
from train.data.crop import crop_box
from train.data.datasets import annotation_of, find_faces
from train.data.pictures import read_picture
from train.data.synthetic import draw_faces

SIZES = (10, 12, 16, 24, 40, 80)
ANGLES = (0, 15, 30, 45, 90, 135, 180)
ROTATED = 60  # pixels, width of the faces that are rotated
SIDE_PER_WIDTH = 1.75  # a face's square side over the face's width
BORDER = 64  # pixels added around a portrait, its edge repeated, so that no face fills the picture
MOSAIC = 20  # faces per side
HARD = 0.2  # share of the portraits in each of the groups `dark` and `turned`
HARD_SIZES = (16, 40)
# Pictures without a face that are installed with scikit-image; `chelsea` is a cat.
EMPTY = (
    *("brick", "cell", "chelsea", "coffee", "grass", "gravel", "hubble_deep_field", "logo", "moon"),
    *("page", "retina", "rocket", "text"),
)
EMPTY_SCALES = (1.0, 0.6, 0.35, 0.2)

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Portrait:
    """A picture of one face, and the face's square.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        centre: (2,), (x, y) of the square's centre, pixels.
        side: of the square, pixels.
        luma: the face's median brightness, 0..255.
        turn: distance of the nose from the middle of the face's outline, over half its width: 0
            seen from the front, about 1 in profile; NaN without landmarks of the outline.
    """

    image: Bytes
    centre: NDArray[np.float64]
    side: float
    luma: float = float("nan")
    turn: float = float("nan")

    @staticmethod
    def around(image: Bytes, landmarks: NDArray[np.float32]) -> Portrait:
        """From a picture (H, W, 3) and its landmarks (K, 2), (x, y) pixels; adds a border."""
        left, top, right, bottom = crop_box(landmarks)
        framed = np.pad(image, ((BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="edge")
        centre = np.array([left + right, top + bottom]) / 2 + BORDER
        return Portrait(framed, centre, right - left, _luma(image, landmarks), _turn(landmarks))

    def of(self, width: float) -> Portrait:
        """Scaled so that the face is `width` pixels wide."""
        scale = width * SIDE_PER_WIDTH / self.side
        size = [max(1, round(side * scale)) for side in (self.image.shape[1], self.image.shape[0])]
        small = np.array(Image.fromarray(self.image).resize(size, Image.Resampling.BICUBIC))
        return Portrait(small, self.centre * scale, self.side * scale)

    def rotated(self, angle: float) -> Portrait:
        """Rotated clockwise about the face's centre, by an angle in degrees."""
        side = round(2.5 * self.side)
        x, y = self.centre.tolist()
        matrix = np.asarray(cv2.getRotationMatrix2D((x, y), -angle, 1.0), np.float64)
        matrix[:, 2] += side / 2 - self.centre
        image = cv2.warpAffine(
            self.image, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        return Portrait(np.asarray(image, np.uint8), np.full(2, side / 2), self.side)

    def is_detected_by(self, crop: Crop) -> bool:
        """Whether a detection counts as this face; see the module's docstring."""
        near = np.abs(crop.centre - self.centre).max() < 0.3 * self.side
        return bool(near and 0.6 < crop.size / self.side < 1.6)


def _luma(image: Bytes, landmarks: NDArray[np.float32]) -> float:
    """Median brightness, 0..255, between the landmarks' quartiles: skin, and little else."""
    (left, top), (right, bottom) = np.percentile(landmarks, (25, 75), axis=0).round().astype(int)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return float(np.median(grey[max(0, top) : bottom + 1, max(0, left) : right + 1]))


def _turn(landmarks: NDArray[np.float32]) -> float:
    if len(landmarks) not in COMPONENT_GROUPS or len(landmarks) == 5:
        return float("nan")
    _, _, nose, _, outline = (
        landmarks[list(group), 0] for group in COMPONENT_GROUPS[len(landmarks)]
    )
    half = np.ptp(outline) / 2
    return float(abs(nose.mean() - outline.min() - half) / half)


@dataclass(frozen=True)
class Detection:
    """A detector's results on some pictures.

    Attributes:
        recall: share of the faces that were detected, 0..1; None without faces.
        false: detections that match no face, or a face that was already detected.
        milliseconds: median time per picture.
        off: median error of the detections' rotation, degrees; None if none was measured.
    """

    recall: float | None
    false: int
    milliseconds: float
    off: float | None


def measure(
    detector: YuNetDetector, portraits: Sequence[Portrait], angle: float = 0.0
) -> Detection:
    """Run the detector on portraits whose faces are rotated clockwise by `angle` degrees."""
    hits, false, times, off = 0, 0, [], []
    for portrait in portraits:
        began = time.perf_counter()
        crops = detector.find(portrait.image)
        times.append(time.perf_counter() - began)
        right = [crop for crop in crops if portrait.is_detected_by(crop)]
        hits += bool(right)
        false += len(crops) - bool(right)
        off += [abs((right[0].angle - angle + 180) % 360 - 180)] if right else []
    median = float(np.median(off)) if off else None
    return Detection(hits / len(portraits), false, 1e3 * float(np.median(times)), median)


def measure_mosaic(detector: YuNetDetector, portraits: Sequence[Portrait], width: int) -> Detection:
    """Run the detector on one picture of `MOSAIC`² faces, each `width` pixels wide."""
    pitch = round(2 * SIDE_PER_WIDTH * width)
    image = np.full((MOSAIC * pitch, MOSAIC * pitch, 3), 110, np.uint8)
    placed = []
    for n in range(MOSAIC**2):
        one = portraits[n % len(portraits)].of(width)
        corner = np.array([n % MOSAIC, n // MOSAIC]) * pitch
        part = one.image[:pitch, :pitch]
        image[corner[1] : corner[1] + part.shape[0], corner[0] : corner[0] + part.shape[1]] = part
        placed.append(Portrait(image, one.centre + corner, one.side))
    began = time.perf_counter()
    crops = detector.find(image)
    seconds = time.perf_counter() - began
    hits = sum(any(face.is_detected_by(crop) for crop in crops) for face in placed)
    return Detection(hits / len(placed), max(0, len(crops) - hits), 1e3 * seconds, None)


def without_faces() -> list[Bytes]:
    """Pictures without a face; see `EMPTY`."""
    import skimage.data

    found = []
    for name in EMPTY:
        picture = Image.fromarray(np.asarray(getattr(skimage.data, name)())).convert("RGB")
        for scale in EMPTY_SCALES:
            small = picture.resize([max(1, round(side * scale)) for side in picture.size])
            found += [np.asarray(small), np.ascontiguousarray(np.asarray(small)[:, ::-1])]
    return found


def measure_empty(detector: YuNetDetector, pictures: Sequence[Bytes]) -> Detection:
    """Run the detector on pictures without a face."""
    found, times = 0, []
    for picture in pictures:
        began = time.perf_counter()
        found += len(detector.find(picture))
        times.append(time.perf_counter() - began)
    return Detection(None, found, 1e3 * float(np.median(times)), None)


def portraits_of(folder: str, landmarks: str, count: int) -> list[Portrait]:
    """Up to `count` portraits of a folder, spread evenly over the sorted names.

    Args:
        landmarks: a file with all landmarks; empty to read those next to the pictures.

    Raises:
        UserError: no picture has landmarks.
    """
    entries = [e for e in find_faces(folder, landmarks) if e.annotation is not None]
    if not entries:
        raise UserError(f"{folder}: no pictures with landmarks; give --landmarks FILE")
    chosen = entries[:: max(1, len(entries) // count)][:count]
    return [
        Portrait.around(read_picture(entry.picture.read()), annotation_of(entry).landmarks)
        for entry in chosen
    ]


def rows(detector: YuNetDetector, portraits: Sequence[Portrait]) -> Iterator[tuple[str, Detection]]:
    """The rows of the table, measured one by one."""
    for size in SIZES:
        yield f"{size} px", measure(detector, [p.of(size) for p in portraits])
    count = max(1, round(HARD * len(portraits)))
    dark = sorted(portraits, key=lambda p: p.luma)[:count]
    turned = sorted(portraits, key=lambda p: -np.nan_to_num(p.turn))[:count]
    for name, group in (("darkest fifth", dark), ("most turned fifth", turned)):
        for size in HARD_SIZES:
            yield f"{name}, {size} px", measure(detector, [p.of(size) for p in group])
    for angle in ANGLES:
        rotated = [p.of(ROTATED).rotated(angle) for p in portraits]
        yield f"rotated by {angle}°", measure(detector, rotated, angle)
    for size in (16, 40):
        yield f"{MOSAIC**2} faces of {size} px", measure_mosaic(detector, portraits, size)
    empty = without_faces()
    yield f"{len(empty)} pictures without a face", measure_empty(detector, empty)


def table(content: Mapping[str, Any]) -> str:
    """A Markdown table of a results file."""
    lines = ["| faces | detected | false | ms | rotation error |", "|---|---:|---:|---:|---:|"]
    for row in content["detector"]:
        off = "" if row["off"] is None else f"{row['off']:.0f}°"
        recall = "" if row["recall"] is None else f"{100 * row['recall']:.0f} %"
        lines.append(
            f"| {row['faces']} | {recall} | {row['false']} | {row['milliseconds']:.0f} | {off} |"
        )
    return f"{content['portraits']} portraits\n\n" + "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.detector",
        description="Measure the face detector's recall and speed by face size and rotation.",
    )
    parser.add_argument(
        "--faces", metavar="DIR", help="portraits with landmarks (default: synthetic faces)"
    )
    parser.add_argument(
        "--landmarks", default="", metavar="FILE", help="landmarks of all portraits"
    )
    parser.add_argument("--count", type=int, default=100, metavar="N", help="default: %(default)s")
    parser.add_argument("--detector", type=Path, metavar="FILE", help="another YuNet model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error("--count must be at least 1")
    if options.faces:
        portraits = portraits_of(options.faces, options.landmarks, options.count)
    else:
        images, points = draw_faces(20200614, options.count)
        portraits = [Portrait.around(*pair) for pair in zip(images, points, strict=True)]
    detector = YuNetDetector(options.detector)
    total = len(SIZES) + 2 * len(HARD_SIZES) + len(ANGLES) + 3
    measured = Progress(rows(detector, portraits), total=total, unit="row", leave=False)
    found = [{"faces": name} | asdict(row) for name, row in measured]
    content = {"portraits": len(portraits), "detector": found}
    print(table(content))
    if options.json:
        content = {"machine": asdict(machine.machine("benchmarks.detector"))} | content
        write_json(options.json, content)
    return 0


def cli() -> NoReturn:
    run(main, "benchmarks")


if __name__ == "__main__":
    cli()
