"""Data sets of faces: drawn ones, a folder of pictures, or tar shards.

A data set is a list of faces with random access, so that training can resume at any position of
any epoch. `open_faces` supports two kinds of sources:

- a folder of pictures (PNG, JPEG, WebP, BMP, TIFF, PPM), searched recursively, with either one
  landmark file per picture (`NAME.pts`, `.csv`, `.json` or `.npz` beside `NAME.png`) or one for
  all pictures (`landmarks.csv`, `.json`, `.npz` or `.pkl` in the folder, or the file given as
  `landmarks`);
- tar shards in the WebDataset layout (a folder of `.tar` files, or a glob pattern): `KEY.png`
  followed by `KEY.pts`. They are read in place at recorded offsets, not streamed.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from dic.console import UserError
from dic.cores import cores
from dic.memory import share_of_core, shown
from train.data.annotations import Annotation, AnnotationError, read_annotations
from train.data.pictures import IMAGE_SUFFIXES, Face, Picture, check_box, read_picture
from train.data.synthetic import draw_faces

if TYPE_CHECKING:
    from train.recipe import FileData, SyntheticData

LANDMARK_SUFFIXES = (".pts", ".csv", ".json", ".npz")  # of one picture; a .pkl covers many
TABLE_NAMES = tuple(f"landmarks{suffix}" for suffix in (".csv", ".json", ".npz", ".pkl"))
SETTINGS_FILE = "prepare.json"  # train.prepare's options, in the folder that it creates


class BadFaceError(Exception):
    """One face cannot be read; the message names it and says why. Other faces may be readable."""


class Faces(Protocol):
    """A data set of faces with random access."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Return a string that identifies the faces and their order."""

    def picture(self, index: int) -> Picture:
        """Return a face with the margin stored around it.

        Raises:
            BadFaceError: this face cannot be read.
        """

    def __getitem__(self, index: int) -> Face:
        """Return a face (128, 128, 3) uint8 RGB and its landmarks (K, 2), pixels of the face.

        Raises:
            BadFaceError: this face cannot be read.
        """


@dataclass(frozen=True)
class FacesInMemory:
    """Faces held in memory: images (N, 128, 128, 3) uint8 RGB, landmarks (N, K, 2) float32."""

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
class FileRange:
    """A file, or part of one.

    Attributes:
        path: of the file.
        name: its suffix determines the format of the content.
        offset, size: in bytes; a size of -1 extends to the end.
    """

    path: str
    name: str
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """Its content.

        Raises:
            OSError: it cannot be read.
            ValueError: it is larger than a core's share of the machine's memory.
        """
        with open(self.path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            size = end - self.offset if self.size < 0 else self.size
            allowed = share_of_core()
            if allowed is not None and size > allowed:
                raise ValueError(f"has {shown(size)}, {shown(allowed)} of memory are allowed")
            file.seek(self.offset)
            return file.read(size)


@dataclass(frozen=True)
class Entry:
    """The location of one face in a data set.

    Attributes:
        name: for messages.
        key: the picture's path in the data set, without suffix.
        picture: the image file.
        annotation: the landmarks if they are known already, the file that contains them, or None.
    """

    name: str
    key: str
    picture: FileRange
    annotation: Annotation | FileRange | None


@dataclass(frozen=True)
class FacesInFiles:
    """Faces that are read from files on access; `landmarks` is their number K per face."""

    entries: list[Entry]
    landmarks: int

    def __len__(self) -> int:
        return len(self.entries)

    def fingerprint(self) -> str:
        """See `Faces`. Made from the keys, so that the data set's folder may be moved."""
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
                raise ValueError(f"{width}×{height} is not square, and there is no box to crop to")
            box = annotation.box or (0, 0, width, height)
            check_box(box, width, height)
            return Picture(image, annotation.landmarks, box)
        except Exception as error:  # Pillow raises many types for damaged files
            reason = str(error) or type(error).__name__
            raise BadFaceError(f"{entry.name}: {reason.splitlines()[0]}") from error

    def __getitem__(self, index: int) -> Face:
        return self.picture(index).face()


def annotation_of(entry: Entry) -> Annotation:
    """Return the landmarks of an entry, reading their file if necessary.

    Raises:
        AnnotationError: the entry has no landmarks, or they are invalid.
    """
    if entry.annotation is None:
        raise AnnotationError("no landmarks")
    if isinstance(entry.annotation, Annotation):
        if entry.annotation.fault:
            raise AnnotationError(entry.annotation.fault)
        return entry.annotation
    annotations = read_annotations(entry.annotation.name, entry.annotation.read())
    if len(annotations) > 1:
        raise AnnotationError(
            f"{entry.annotation.name}: landmarks of {len(annotations)} pictures, not of "
            f"{entry.name} alone"
        )
    return next(iter(annotations.values()))


def open_faces(source: str, landmarks: str, count: int) -> FacesInFiles:
    """Open the faces in a folder or in tar shards.

    Args:
        source: a folder, or a glob pattern of `.tar` files.
        landmarks: a file with the landmarks of all pictures; if empty, they are expected beside
            the pictures. Pictures without an entry in the file are omitted with a warning.
        count: K, landmarks per face; reading a face with another number raises BadFaceError.

    Raises:
        UserError: no pictures, or pictures without landmarks.
    """
    entries = find_faces(source, landmarks)
    annotated = [entry for entry in entries if entry.annotation is not None]
    if len(annotated) < len(entries):
        first = next(entry.name for entry in entries if entry.annotation is None)
        missing = f"{len(entries) - len(annotated)} of {len(entries)} pictures have no landmarks"
        if not annotated or not _table(Path(source), landmarks):
            raise UserError(
                f"{source}: {missing} (first: {first}); give a file that has them with "
                "data.landmarks=FILE, or detect them with python -m train.prepare --detect"
            )
        print(f"warning: {source}: {missing} and are omitted (first: {first})", file=sys.stderr)
    with contextlib.suppress(AnnotationError, OSError):  # raised again when this face is read
        actual = len(annotation_of(annotated[0]).landmarks)
        if actual != count:
            raise UserError(
                f"{source}: its faces have {actual} landmarks, the network {count}; set "
                f"network.landmarks={actual}"
            )
    return FacesInFiles(annotated, count)


def find_faces(source: str, landmarks: str = "") -> list[Entry]:
    """List the pictures in a folder or in tar shards, sorted by name, with their landmarks if any.

    Args:
        source, landmarks: as for `open_faces`.

    Raises:
        UserError: no pictures, or a landmark file that does not match the pictures.
    """
    folder = Path(source)
    if (folder / SETTINGS_FILE).is_file():
        raise UserError(f"{source}: was made by train.prepare; use {source}/train")
    if folder.is_dir():
        shards = sorted(path for path in folder.glob("*.tar") if path.is_file())
    else:
        shards = [Path(name) for name in sorted(glob.glob(source))]
        if not shards:
            raise UserError(
                f"{source}: neither a folder nor a pattern that matches .tar files; name a folder "
                "with data.train=FOLDER, prepare one with python -m train.prepare"
            )
        if shards[0].suffix.lower() in IMAGE_SUFFIXES:
            raise UserError(f"{source}: is a picture; name its folder instead")
    entries = list(_in_shards(shards)) if shards else _in_folder(folder)
    if not entries:
        raise UserError(f"{source}: contains no pictures ({', '.join(IMAGE_SUFFIXES)})")
    table = _table(folder, landmarks)
    return entries if table is None else _by_table(entries, table)


def _table(folder: Path, landmarks: str) -> Path | None:
    """Return the file with the landmarks of all pictures, if there is one."""
    if landmarks:
        return Path(landmarks)
    return next((folder / name for name in TABLE_NAMES if (folder / name).is_file()), None)


def _in_folder(folder: Path) -> list[Entry]:
    files = sorted(Path(base) / name for base, _, names in os.walk(folder) for name in names)
    present = set(files)
    entries = []
    for path in files:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            candidates = (path.with_suffix(suffix) for suffix in LANDMARK_SUFFIXES)
            beside = next((str(file) for file in candidates if file in present), None)
            points = None if beside is None else FileRange(beside, beside)
            key = path.relative_to(folder).with_suffix("").as_posix()
            entries.append(Entry(str(path), key, FileRange(str(path), str(path)), points))
    return entries


def _by_table(entries: list[Entry], table: Path) -> list[Entry]:
    """Set the entries' landmarks from a table, which is keyed by path, file name or stem."""
    try:
        annotations = read_annotations(str(table), table.read_bytes())
    except OSError as error:
        raise UserError(f"{table}: {error.strerror}") from error
    used: dict[str, Entry] = {}
    updated = []
    for entry in entries:
        path = PurePosixPath(entry.key + PurePosixPath(entry.picture.name).suffix)
        name = next((n for n in (str(path), path.name, path.stem) if n in annotations), None)
        if name is not None and name in used:
            raise UserError(
                f"{table}: {name} matches both {used[name].name} and {entry.name}; name pictures "
                "by their path in the folder"
            )
        if name is not None:
            used[name] = entry
        updated.append(replace(entry, annotation=None if name is None else annotations[name]))
    if not used:
        example = next(iter(annotations)) or "(no name)"
        raise UserError(
            f"{table}: none of its {len(annotations)} names ({example} …) matches a picture; name "
            "pictures by their path in the folder"
        )
    return updated


def _in_shards(shards: Iterable[Path]) -> Iterable[Entry]:
    for shard in shards:
        groups: dict[str, dict[str, FileRange]] = {}
        try:
            with tarfile.open(shard, "r:") as tar:  # "r:": random access needs no compression
                for member in tar:
                    if member.isfile():
                        name = PurePosixPath(member.name)
                        stem, _, suffix = name.name.partition(".")
                        data = FileRange(str(shard), name.name, member.offset_data, member.size)
                        key = str(name.parent / stem)
                        groups.setdefault(key, {})["." + suffix.lower()] = data
        except tarfile.TarError as error:
            raise UserError(f"{shard}: damaged, compressed or not a tar file ({error})") from error
        except OSError as error:
            raise UserError(f"{shard}: {error.strerror}") from error
        for key, parts in groups.items():
            picture = next((parts[s] for s in IMAGE_SUFFIXES if s in parts), None)
            points = next((parts[s] for s in LANDMARK_SUFFIXES if s in parts), None)
            if picture is not None:
                yield Entry(f"{shard}:{key}", f"{shard.stem}/{key}", picture, points)


def load_data(data: SyntheticData | FileData, landmarks: int) -> tuple[Faces, Faces]:
    """Return a recipe's training faces and validation faces.

    Args:
        data: the recipe's `data` section.
        landmarks: K, landmarks per face.

    Raises:
        UserError: there are no such faces; see `open_faces`.
    """
    if data.kind == "files":
        return (
            open_faces(data.train, data.landmarks, landmarks),
            open_faces(data.validation, data.validation_landmarks, landmarks),
        )
    workers = cores()
    images, points = draw_faces(data.seed, data.count + data.validation, workers=workers)
    return (
        FacesInMemory(images[: data.count], points[: data.count]),
        FacesInMemory(images[data.count :], points[data.count :]),
    )
