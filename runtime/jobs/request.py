"""What a call of `runtime.infer` asks for: files, an engine, faces, outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dic.engine_file import engine_files
from runtime.faces.options import PhotoOptions
from runtime.jobs.paths import OutputOptions


@dataclass(frozen=True)
class EngineOptions:
    """Which engine restores, and with what.

    Attributes:
        path: an ONNX file or a TensorRT plan.
        device: see `load_engine`.
        threads: of the CPU; None uses all cores.
        batch: most faces of an engine run.
    """

    path: Path
    device: str
    threads: int | None
    batch: int


@dataclass(frozen=True)
class FaceSource:
    """Where the faces of photographs are.

    Attributes:
        boxes: a file that lists them; None detects them.
        detector: YuNet's model; None takes the installed one.
        smallest: width in pixels, ear to ear, from which faces are detected; None by the
            picture's size.
    """

    boxes: Path | None
    detector: Path | None
    smallest: int | None


@dataclass(frozen=True)
class Request:
    """One call.

    Attributes:
        inputs: files, folders, patterns, or "-".
        output: a file, a folder, or "-".
        photos: how photographs and videos are restored; None restores aligned faces.
        faces: where their faces are; None with aligned faces.
        outputs: which files are written, in which format.
        resume: leave out what has been written already.
        summary: a JSON file of what became of each input.
        memory: bytes that the command may take; None by what the machine has.
    """

    inputs: list[str]
    output: str
    engine: EngineOptions
    photos: PhotoOptions | None
    faces: FaceSource | None
    outputs: OutputOptions
    resume: bool
    summary: Path | None
    memory: int | None = None

    @property
    def files_read(self) -> list[Path]:
        """The files that are read beside the inputs."""
        faces = self.faces
        given = (faces and faces.boxes, faces and faces.detector)
        return [*engine_files(self.engine.path), *(path for path in given if path)]
