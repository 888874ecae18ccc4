"""Faces through a video: one face is one track, without gaps, jumps or flicker.

Detectors see each frame alone: they miss a face in one, and frame it a little differently in
every other. So all frames are searched first, and what was found is joined, filled and smoothed
before anything is restored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.faces.crop import Crop

SAME = 0.3  # intersection over union from which a square goes on with a track
LONGEST_GAP = 0.5  # seconds without the face after which its track has ended
FEWEST = 3  # detections of a track; fewer are mistakes, in a video that has more frames
FADE = 0.15  # seconds in which a face that comes or goes is blended in or out
SMOOTH = 0.1  # seconds, the Gaussian's width


@dataclass
class Track:
    """One face: its squares by frame number, in order; without gaps once it is finished."""

    crops: dict[int, Crop] = field(default_factory=dict)

    @property
    def first(self) -> int:
        return next(iter(self.crops))

    @property
    def last(self) -> int:
        return next(reversed(self.crops))

    @property
    def size(self) -> float:
        """The median of its sides, in pixels."""
        return float(np.median([crop.size for crop in self.crops.values()]))


@dataclass(frozen=True)
class Sighting:
    """A track in one frame.

    Attributes:
        weight: of the restored face in 0..1; less where the face comes or goes.
    """

    crop: Crop
    weight: float


def join(frames: Iterable[Sequence[Crop]], rate: float) -> list[Track]:
    """Tracks of what a detector found in each frame, in order.

    Args:
        rate: frames a second.
    """
    gap, open_tracks, ended = max(1, round(LONGEST_GAP * rate)), list[Track](), list[Track]()
    count = 0
    for number, crops in enumerate(frames):
        count = number + 1
        pairs = sorted(
            ((track.crops[track.last].overlap(crop), t, c)
             for t, track in enumerate(open_tracks) for c, crop in enumerate(crops)),
            reverse=True,
        )  # fmt: skip
        gone_on, taken = set[int](), set[int]()
        for overlap, t, c in pairs:
            if overlap >= SAME and t not in gone_on and c not in taken:
                open_tracks[t].crops[number] = crops[c]
                gone_on.add(t)
                taken.add(c)
        open_tracks += [Track({number: crop}) for c, crop in enumerate(crops) if c not in taken]
        ended += [track for track in open_tracks if number - track.last > gap]
        open_tracks = [track for track in open_tracks if number - track.last <= gap]
    fewest = min(FEWEST, count)
    return [_finished(t, rate) for t in ended + open_tracks if len(t.crops) >= fewest]


def _finished(track: Track, rate: float) -> Track:
    """Gaps filled by straight lines, then smoothed."""
    known = list(track.crops)
    numbers = np.arange(known[0], known[-1] + 1)
    values = np.array(
        [(*track.crops[n].centre, track.crops[n].size, track.crops[n].angle) for n in known]
    )
    reach = math.ceil(4 * SMOOTH * rate)
    kernel = np.exp(-((np.arange(-reach, reach + 1) / (SMOOTH * rate)) ** 2) / 2)
    # At the ends the kernel is cut off, and weighs what is left.
    share = np.convolve(np.ones(len(numbers)), kernel)[reach : reach + len(numbers)]
    smooth = np.empty((len(numbers), values.shape[1]))
    for i, column in enumerate(values.T):
        full = np.convolve(np.interp(numbers, known, column), kernel)
        smooth[:, i] = full[reach : reach + len(numbers)] / share
    score = max(crop.score for crop in track.crops.values())
    return Track(
        {
            int(n): Crop.around(np.array([x, y]), size, score, float(angle))
            for n, (x, y, size, angle) in zip(numbers, smooth, strict=True)
        }
    )


def sightings(tracks: Sequence[Track], number: int, count: int, rate: float) -> list[Sighting]:
    """The tracks that pass through a frame.

    Args:
        count: of the video's frames: what is there at its ends does not fade.
    """
    fade = max(1.0, FADE * rate)
    found = []
    for track in tracks:
        if number not in track.crops:
            continue
        come = 1.0 if track.first == 0 else (number - track.first + 1) / fade
        go = 1.0 if track.last == count - 1 else (track.last - number + 1) / fade
        found.append(Sighting(track.crops[number], min(1.0, come, go)))
    return found
