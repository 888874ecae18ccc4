"""Where faces come from: drawn, from a folder of pictures, or from tar shards.

A data set is a list of faces that can be read by number, so that any place in any epoch can be
found again. `open_faces` tells the kinds of files apart:

- a folder of pictures (PNG, JPEG, WebP, BMP, TIFF, PPM), at any depth, with landmarks beside them:
  `NAME.pts`, `.csv`, `.json` or `.npz` for NAME.png, or one file for all of them
  (`landmarks.csv`, `.json`, `.npz`, `.pkl`, or whatever file `landmarks` names);
- tar shards as WebDataset writes them (a folder of `.tar`, or a pattern): `KEY.png` and `KEY.pts`
  one after the other. They are read in place, by position, not streamed.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import os
import sys
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dic.console import UserError
from dic.sizes import SR_SIZE
from train.data.annotations import Annotation, AnnotationError, read_annotations
from train.data.synthetic import draw_faces

if TYPE_CHECKING:
    from train.recipe import FileData, SyntheticData

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
BESIDE = (".pts", ".csv", ".json", ".npz")  # of one picture; a .pkl is always of many
SETTINGS = "prepare.json"  # what train.prepare leaves in the folder that it makes
MOST_OVER = 4  # sides of the picture that a box may measure
TABLES = tuple(f"landmarks{suffix}" for suffix in (".csv", ".json", ".npz", ".pkl"))

Face = tuple[NDArray[np.uint8], NDArray[np.float32]]


@dataclass(frozen=True)
class Picture:
    """A picture with one face in it, which a square is yet to be cut around.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        landmarks: (K, 2) float32, (x, y) pixels of the picture; a whole number is a pixel's centre.
        box: the face's square: left, top, right, bottom, the last two outside.
    """

    image: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    box: tuple[float, float, float, float]

    @staticmethod
    def of(face: Face) -> Picture:
        """A face that is cut out already."""
        return Picture(*face, (0, 0, SR_SIZE, SR_SIZE))

    def face(self) -> Face:
        """The box, 128×128."""
        return cut(self.image, self.landmarks, self.box)


class BadFaceError(Exception):
    """One face that cannot be read; the message names it and says why. Others may be fine."""


class Faces(Protocol):
    """Faces by number."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """The same for the same faces in the same order, and for no others."""

    def picture(self, index: int) -> Picture:
        """A face with what was kept around it.

        Raises:
            BadFaceError: this one cannot be read.
        """

    def __getitem__(self, index: int) -> Face:
        """A picture (128, 128, 3) uint8 RGB and its landmarks (K, 2), pixels of it.

        Raises:
            BadFaceError: this one cannot be read.
        """


@dataclass(frozen=True)
class FacesInMemory:
    """Faces that are all at hand: pictures (N, 128, 128, 3) uint8, landmarks (N, K, 2)."""

    images: NDArray[np.uint8]
    landmarks: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        return f"{len(self)} faces, {hashlib.sha256(self.landmarks.tobytes()).hexdigest()[:16]}"

    def picture(self, index: int) -> Picture:
        return Picture.of(self[index])

    def __getitem__(self, index: int) -> Face:
        return self.images[index], self.landmarks[index]


@dataclass(frozen=True)
class Bytes:
    """A file, or `size` bytes from `offset` of one; `name` tells the format."""

    path: str
    name: str
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Entry:
    """Where one face is kept: a picture, and its landmarks, their file, or none.

    `name` is for messages; `key` is its path in the data set, without a suffix.
    """

    name: str
    key: str
    picture: Bytes
    annotation: Annotation | Bytes | None


@dataclass(frozen=True)
class FacesInFiles:
    """Faces that are read when they are asked for."""

    entries: list[Entry]
    landmarks: int

    def __len__(self) -> int:
        return len(self.entries)

    def fingerprint(self) -> str:
        """Of their paths in the data set, which may lie elsewhere tomorrow."""
        keys = "\n".join(entry.key for entry in self.entries)
        return f"{len(self)} faces, {hashlib.sha256(keys.encode()).hexdigest()[:16]}"

    def picture(self, index: int) -> Picture:
        entry = self.entries[index]
        try:
            annotation = annotation_of(entry)
            image = read_picture(entry.picture.read())
            if len(annotation.landmarks) != self.landmarks:
                raise ValueError(f"{len(annotation.landmarks)} landmarks, not {self.landmarks}")
            height, width = image.shape[:2]
            if annotation.box is None and height != width:
                raise ValueError(f"{width}×{height} is not square, and it has no box to cut by")
            box = annotation.box or (0, 0, width, height)
            check_box(box, width, height)
            return Picture(image, annotation.landmarks, box)
        except Exception as error:  # damaged pictures raise what they like
            what = str(error) or type(error).__name__
            raise BadFaceError(f"{entry.name}: {what.splitlines()[0]}") from error

    def __getitem__(self, index: int) -> Face:
        return self.picture(index).face()


def annotation_of(entry: Entry) -> Annotation:
    """The landmarks of an entry, read now where they lie in a file of their own.

    Raises:
        AnnotationError: it has none, or they cannot be understood.
    """
    if entry.annotation is None:
        raise AnnotationError("no landmarks")
    if isinstance(entry.annotation, Annotation):
        if entry.annotation.fault:
            raise AnnotationError(entry.annotation.fault)
        return entry.annotation
    return _only(read_annotations(entry.annotation.name, entry.annotation.read()), entry.name)


def _only(found: Mapping[str, Annotation], name: str) -> Annotation:
    if len(found) > 1:
        raise AnnotationError(f"landmarks of {len(found)} pictures beside {name}")
    return next(iter(found.values()))


def read_picture(data: bytes) -> NDArray[np.uint8]:
    """Any picture → (H, W, 3) uint8 RGB, upright (EXIF); raises what Pillow raises."""
    try:
        opened = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise ValueError("no picture" if data else "an empty file") from error
    with opened:
        upright = ImageOps.exif_transpose(opened)
        if upright.mode.startswith("I"):  # 16 bits, which Pillow would clip
            levels = np.asarray(upright).astype(np.float64) / 257
            return np.repeat(levels.round().clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return np.array(upright.convert("RGB"))


def cut(
    image: NDArray[np.uint8],
    landmarks: NDArray[np.float32],
    box: tuple[float, float, float, float],
) -> Face:
    """Cut a box out of a picture and make it 128×128, by Pillow's bicubic as the authors do.

    Args:
        box: (left, top, right, bottom), right and bottom outside; beyond the picture it is
            continued with its edge pixels.

    Returns:
        the face and its landmarks, pixels of it.

    Raises:
        ValueError: the box is empty, or far larger than the picture.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = check_box(box, width, height)
    before, after = (max(0, -top), max(0, -left)), (max(0, bottom - height), max(0, right - width))
    if any(before + after):
        pad = ((before[0], after[0]), (before[1], after[1]), (0, 0))
        image = np.pad(image, pad, mode="edge")
    part = image[top + before[0] : bottom + before[0], left + before[1] : right + before[1]]
    # Where whole numbers are pixel centres, the picture begins at -0.5.
    scale = np.array([SR_SIZE / (right - left), SR_SIZE / (bottom - top)])
    points = (landmarks - [left, top] + 0.5) * scale - 0.5
    if part.shape[:2] != (SR_SIZE, SR_SIZE):
        whole = Image.fromarray(np.ascontiguousarray(part))
        part = np.array(whole.resize((SR_SIZE, SR_SIZE), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(part), points.astype(np.float32)


def check_box(
    box: tuple[float, float, float, float], width: int, height: int
) -> tuple[int, int, int, int]:
    """A box in whole pixels.

    Raises:
        ValueError: it is empty, or far larger than the picture.
    """
    left, top, right, bottom = map(round, box)
    if right <= left or bottom <= top:
        raise ValueError(f"an empty box ({left}, {top}, {right}, {bottom})")
    if max(right - left, bottom - top) > MOST_OVER * max(height, width):
        raise ValueError(f"a box ({left}, {top}, {right}, {bottom}) far larger than the picture")
    return left, top, right, bottom


def open_faces(source: str, landmarks: str, count: int) -> FacesInFiles:
    """Find the faces of a folder or of tar shards.

    Args:
        source: a folder, or a pattern of `.tar` files.
        landmarks: a file with all landmarks; empty to find them beside the pictures. Pictures that
            it does not name are left out, with a word.
        count: landmarks a face; faces with another number cannot be read.

    Raises:
        UserError: nothing there, or pictures without landmarks.
    """
    entries = find_faces(source, landmarks)
    known = [entry for entry in entries if entry.annotation is not None]
    if len(known) < len(entries):
        bare = next(entry.name for entry in entries if entry.annotation is None)
        some = f"{len(entries) - len(known)} of {len(entries)} pictures have no landmarks"
        if not known or not _table(Path(source), landmarks):
            raise UserError(
                f"{source}: {some} (first: {bare}); data.landmarks=FILE names a file of them, "
                "python -m train.prepare finds or checks them"
            )
        print(f"{source}: {some} and are left out (first: {bare})", file=sys.stderr)
    with contextlib.suppress(AnnotationError, OSError):  # of one face; others may be fine
        found = len(annotation_of(known[0]).landmarks)
        if found != count:
            raise UserError(
                f"{source}: its faces have {found} landmarks, the network {count}; set "
                f"network.landmarks={found}"
            )
    return FacesInFiles(known, count)


def find_faces(source: str, landmarks: str = "") -> list[Entry]:
    """The pictures of a folder or of tar shards, in the order of their names, with what
    landmarks they have.

    Raises:
        UserError: nothing there, or a table of landmarks that does not fit the pictures.
    """
    folder = Path(source)
    if (folder / SETTINGS).is_file():
        raise UserError(f"{source}: was made by train.prepare; the faces are in {source}/train")
    if folder.is_dir():
        shards = sorted(path for path in folder.glob("*.tar") if path.is_file())
    else:
        shards = [Path(name) for name in sorted(glob.glob(source))]
        if not shards:
            raise UserError(
                f"{source}: no folder, and no .tar files match it; python -m train.prepare makes "
                "data sets, data.train=FOLDER names one"
            )
        if shards[0].suffix.lower() in PICTURES:
            raise UserError(f"{source}: a picture; name the folder it is in")
    entries = list(_in_shards(shards)) if shards else _in_folder(folder)
    if not entries:
        raise UserError(f"{source}: no pictures there ({', '.join(PICTURES)})")
    table = _table(folder, landmarks)
    return entries if table is None else _by_table(entries, table)


def _table(folder: Path, landmarks: str) -> Path | None:
    if landmarks:
        return Path(landmarks)
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def _in_folder(folder: Path) -> list[Entry]:
    files = sorted(Path(base) / name for base, _, names in os.walk(folder) for name in names)
    present = set(files)
    entries = []
    for path in files:
        if path.suffix.lower() in PICTURES:
            beside = [str(b) for suffix in BESIDE if (b := path.with_suffix(suffix)) in present]
            points = Bytes(beside[0], beside[0]) if beside else None
            key = path.relative_to(folder).with_suffix("").as_posix()
            entries.append(Entry(str(path), key, Bytes(str(path), str(path)), points))
    return entries


def _by_table(entries: list[Entry], table: Path) -> list[Entry]:
    """The entries with the landmarks that the table has for their path, file name or stem."""
    try:
        annotations = read_annotations(str(table), table.read_bytes())
    except OSError as error:
        raise UserError(f"{table}: {error.strerror}") from error
    given: dict[str, Entry] = {}
    found = []
    for entry in entries:
        path = PurePosixPath(entry.key + PurePosixPath(entry.picture.name).suffix)
        name = next((n for n in (str(path), path.name, path.stem) if n in annotations), None)
        if name is not None and name in given:
            raise UserError(
                f"{table}: {name} could be {given[name].name} or {entry.name}; name pictures by "
                "their path in the folder"
            )
        if name is not None:
            given[name] = entry
        found.append(replace(entry, annotation=None if name is None else annotations[name]))
    if not given:
        example = next(iter(annotations)) or "(no name)"
        raise UserError(
            f"{table}: none of its {len(annotations)} names ({example} …) is a picture there"
        )
    return found


def _in_shards(shards: Iterable[Path]) -> Iterable[Entry]:
    for shard in shards:
        groups: dict[str, dict[str, Bytes]] = {}
        try:
            with tarfile.open(shard, "r:") as tar:  # "r:": compressed ones have no positions
                for member in tar:
                    if member.isfile():
                        name = PurePosixPath(member.name)
                        stem, _, suffix = name.name.partition(".")
                        where = Bytes(str(shard), name.name, member.offset_data, member.size)
                        key = str(name.parent / stem)
                        groups.setdefault(key, {})["." + suffix.lower()] = where
        except tarfile.TarError as error:
            raise UserError(f"{shard}: damaged, compressed or no tar file ({error})") from error
        except OSError as error:
            raise UserError(f"{shard}: {error.strerror}") from error
        for key, parts in groups.items():
            picture = next((parts[s] for s in PICTURES if s in parts), None)
            points = next((parts[s] for s in BESIDE if s in parts), None)
            if picture is not None:
                yield Entry(f"{shard}:{key}", f"{shard.stem}/{key}", picture, points)


def load_data(data: SyntheticData | FileData, landmarks: int) -> tuple[Faces, Faces]:
    """The faces to train on and those to validate on.

    Raises:
        UserError: they are not there.
    """
    if data.kind == "files":
        return (
            open_faces(data.train, data.landmarks, landmarks),
            open_faces(data.validation, data.validation_landmarks, landmarks),
        )
    workers = len(os.sched_getaffinity(0))
    images, points = draw_faces(data.seed, data.count + data.validation, workers=workers)
    return (
        FacesInMemory(images[: data.count], points[: data.count]),
        FacesInMemory(images[data.count :], points[data.count :]),
    )
