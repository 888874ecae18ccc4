"""Whether a restored video is right: by its known content, and as the FFmpeg program shows it."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.formats.cell import Result
from benchmarks.formats.videos.clips import Clip
from benchmarks.formats.videos.ffmpeg import Shown, packets, show
from benchmarks.formats.videos.scene import CORNERS, LONG, SHORT, TURNS, seen
from dic.console import UserError
from runtime.infer import main

LEVELS = 7.0  # most that a corner's mean may differ from its colour, after two lossy codecs
LATE = 1.6e-3  # seconds; Matroska stores whole milliseconds
PRIMING = 0.05  # seconds of sound that a decoder needs before 0
KINDS = {"Audio": "audio", "Subtitle": "subtitle"}


@dataclass(frozen=True)
class Done:
    """What the command did.

    Attributes:
        status: its exit status.
        told: its standard error.
        left: names in the result's folder.
    """

    status: int
    told: str
    left: list[str]


def restored(source: Path, target: Path, engine: Path) -> Done:
    """Restore a video as the command does, at its size."""
    told = io.StringIO()
    line = ["--faces", str(source), "-o", str(target), "--engine", str(engine), "--enlarge", "1"]
    with contextlib.redirect_stderr(told):
        try:
            status = main(line)
        except UserError as error:
            status = 2
            told.write(f"error: {error}\n")
    return Done(status, told.getvalue(), [path.name for path in target.parent.iterdir()])


def judged(clip: Clip, source: Path, target: Path, done: Done) -> tuple[Result, str]:
    """What became of a clip, and the error, or what is wrong."""
    errors = [line[7:] for line in done.told.splitlines() if line.startswith("error: ")]
    if errors:
        told = re.sub(rf"{re.escape(str(source.parent))}/", "", errors[0])
        if done.status != 2 or len(errors) > 1 or done.left:
            return Result.WRONG, f"status {done.status}, left {done.left}: {told}"
        if not clip.refused or not re.search(clip.refused, told):
            return Result.WRONG, f"refused: {told}"
        return Result.REFUSED, told
    if clip.refused:
        return Result.WRONG, f"not refused: {clip.refused}"
    if done.status != 0:
        return Result.WRONG, f"status {done.status}: {done.told[-300:]}"
    before, after = show(source), show(target)
    faults = [*_frames(clip, after), *_rest(clip, before, after)]
    faults += _copied(clip, source, before, target, after)
    reported = done.told.split(": 1 face over", 1)[-1].splitlines()[0]
    if not re.search(clip.told or "^ [0-9]+ frames$", reported):
        faults.append(f"reports: {reported}")
    return (Result.WRONG, "; ".join(faults)) if faults else (Result.RIGHT, "")


def _frames(clip: Clip, shown: Shown) -> list[str]:
    """What is wrong with the frames: their order, times, orientation and colours."""
    size = TURNS[clip.turn](np.empty((SHORT, LONG))).shape
    frames = shown.frames
    if clip.aspect != 1:  # made square in WebM
        frames = [np.asarray(cv2.resize(f, size[::-1]), np.uint8) for f in frames]
    try:
        found = [seen(frame) for frame in frames]
    except (ValueError, IndexError) as error:
        return [f"a frame is unreadable ({error})"]
    numbers = [number for number, _ in found]
    if numbers != clip.numbers:
        return [f"frames {numbers}, not {clip.numbers}"]
    faults = []
    late = np.array(shown.times) - clip.seconds
    # Matroska has no time before 0: sound that begins there moves all streams.
    late -= late[0] if 0 < late[0] < PRIMING and clip.moved else 0
    if np.abs(late).max() > LATE:
        faults.append(f"times {shown.times}, not {[round(s, 4) for s in clip.seconds]}")
    if frames[0].shape[:2] != size:
        faults.append(f"size {shown.frames[0].shape}")
    wanted = np.array(CORNERS, float)
    if clip.pixels.startswith("gray"):
        wanted = np.repeat(wanted @ [[0.299], [0.587], [0.114]], 3, 1)
    errors = np.abs(np.array([colours for _, colours in found]) - wanted)
    if errors.max() > LEVELS:
        faults.append(f"a corner's colour differs by {errors.max():.0f} levels")
    return faults


def _rest(clip: Clip, before: Shown, after: Shown) -> list[str]:
    """What is wrong with the file: its length, shape, chapters and languages."""
    faults = []
    if before.held and abs(before.held - after.held) > LATE:
        faults.append(f"its last frame is held for {after.held} s, not {before.held} s")
    if abs(before.aspect - after.aspect) > 1e-3:
        faults.append(f"its shape is {after.aspect:.3f}, not {before.aspect:.3f}")
    if "chapters" not in clip.lost and not np.allclose(before.chapters, after.chapters, atol=LATE):
        faults.append(f"chapters {after.chapters}, not {before.chapters}")
    for tag in ("primaries", "curve"):
        if before.tags[tag] != after.tags[tag]:
            faults.append(f"{tag} {after.tags[tag]}, not {before.tags[tag]}")
    return faults


def _copied(clip: Clip, source: Path, before: Shown, target: Path, after: Shown) -> list[str]:
    """What is wrong with the streams that are copied."""
    faults = []
    for word, kind in KINDS.items():
        old = [n for n, line in enumerate(before.streams) if line.startswith(word)]
        new = [n for n, line in enumerate(after.streams) if line.startswith(word)]
        if kind in clip.lost:
            continue
        if len(old) != len(new):
            faults.append(f"{len(new)} {kind} streams of {len(old)}")
            continue
        for m, n in zip(old, new, strict=True):
            faults += [
                f"{kind} is flagged {b}, not {a}"
                for a, b in [(_flags(before.streams[m]), _flags(after.streams[n]))]
                if a != b
            ]
            if before.languages[m] not in ("und", after.languages[n], ""):
                faults.append(f"{kind} is in {after.languages[n]}, not {before.languages[m]}")
            given, made = packets(source, f"0:{m}"), packets(target, f"0:{n}")
            if [p[1:] for p in given] != [p[1:] for p in made]:
                faults.append(f"{kind}: {len(made)} packets of {len(given)}, or other ones")
            elif given:
                shift = after.times[0] - clip.seconds[0] if clip.moved else 0
                late = [b[0] - a[0] - shift for a, b in zip(given, made, strict=True)]
                if max(map(abs, late)) > 2 * LATE:
                    faults.append(f"{kind} is late by up to {max(late):.4f} s")
    return faults


def _flags(line: str) -> list[str]:
    """The dispositions at the end of the program's line about a stream."""
    found = re.search(r"((?: \([a-z ]+\))*)$", line)
    return sorted(set(re.findall(r"\(([a-z ]+)\)", found[1] if found else "")) - {"default"})
