"""Tracking faces through a video: one track per face, without gaps, jumps or flicker.

A detector treats each frame separately: it misses a face in some frames and places its square
slightly differently in each. So detections in all frames are linked into tracks, gaps are filled
by interpolation, and positions are smoothed before any face is restored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.faces.crop import Crop

SAME = 0.3  # least intersection over union of a detection with the track that it continues
LONGEST_GAP = 0.5  # seconds without a detection after which a track ends
# Tracks with fewer detections are discarded as false positives (in videos with at least as many
# frames).
FEWEST = 3
FADE = 0.15  # seconds over which a face that appears or disappears is faded in or out
SMOOTH = 0.1  # seconds; standard deviation of the Gaussian that smooths a track


@dataclass
class Track:
    """One face: its crops by frame index, in ascending order; without gaps once smoothed."""

    crops: dict[int, Crop] = field(default_factory=dict)

    @property
    def first(self) -> int:
        return next(iter(self.crops))

    @property
    def last(self) -> int:
        return next(reversed(self.crops))

    @property
    def size(self) -> float:
        """Median side of its crops in pixels."""
        return float(np.median([crop.size for crop in self.crops.values()]))


@dataclass(frozen=True)
class Sighting:
    """A track's face in one frame.

    Attributes:
        crop: where the face is.
        weight: opacity of the restored face in 0..1; below 1 while it is faded in or out.
        track: number of the track.
    """

    crop: Crop
    weight: float
    track: int


def join(frames: Iterable[Sequence[Crop]], rate: float) -> list[Track]:
    """Link the detections of successive frames into tracks.

    Greedy matching: pairs of open track and detection are taken in descending order of overlap.

    Args:
        frames: the detected faces of each frame, in order.
        rate: frames per second.

    Returns:
        the smoothed tracks with enough detections.
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
        continued, matched = set[int](), set[int]()
        for overlap, t, c in pairs:
            if overlap >= SAME and t not in continued and c not in matched:
                open_tracks[t].crops[number] = crops[c]
                continued.add(t)
                matched.add(c)
        open_tracks += [Track({number: crop}) for c, crop in enumerate(crops) if c not in matched]
        ended += [track for track in open_tracks if number - track.last > gap]
        open_tracks = [track for track in open_tracks if number - track.last <= gap]
    fewest = min(FEWEST, count)
    return [_smoothed(t, rate) for t in ended + open_tracks if len(t.crops) >= fewest]


def smoothing(rate: float) -> NDArray[np.float64]:
    """The weights of the frames around one, itself in the middle; they do not sum to 1."""
    reach = math.ceil(4 * SMOOTH * rate)
    return np.exp(-((np.arange(-reach, reach + 1) / (SMOOTH * rate)) ** 2) / 2)


def _smoothed(track: Track, rate: float) -> Track:
    """Fill gaps by linear interpolation, then smooth centre, size and angle with a Gaussian."""
    known = list(track.crops)
    numbers = np.arange(known[0], known[-1] + 1)
    values = np.array(
        [(*track.crops[n].centre, track.crops[n].size, track.crops[n].angle) for n in known]
    )
    kernel = smoothing(rate)
    reach = len(kernel) // 2
    # The kernel is truncated at both ends of the track, so normalise by the part that remains.
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
    """The faces of all tracks in one frame.

    Args:
        number: index of the frame.
        count: number of frames in the video. A track that begins with the first frame is not
            faded in; one that ends with the last frame is not faded out.
        rate: frames per second.
    """
    fade = max(1.0, FADE * rate)
    visible = []
    for index, track in enumerate(tracks):
        if number not in track.crops:
            continue
        fade_in = 1.0 if track.first == 0 else (number - track.first + 1) / fade
        fade_out = 1.0 if track.last == count - 1 else (track.last - number + 1) / fade
        visible.append(Sighting(track.crops[number], min(1.0, fade_in, fade_out), index))
    return visible
