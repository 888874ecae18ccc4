"""The matrix's videos with more streams than one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.formats.videos import edits
from benchmarks.formats.videos.cases import LONGER, SOUND, WITH_SOUND, Named, named_clip
from benchmarks.formats.videos.clips import Clip

SECOND = ("-f", "lavfi", "-i", "sine=880:r=48000:d=0.96")
NOT_COPIED = "not copied: "
AUDIO = {
    "mp4": ("aac", "ac3", "eac3", "libmp3lame", "libopus", "flac", "pcm_s16le", "alac", "mp2"),
    "mov": ("aac", "ac3", "eac3", "libmp3lame", "pcm_s16le", "pcm_s24le", "alac"),
    "m4v": ("aac", "ac3", "alac"),
    "mkv": (
        *("aac", "ac3", "eac3", "libmp3lame", "libopus", "flac", "pcm_s16le", "pcm_s24le"),
        *("alac", "libvorbis", "mp2"),
    ),
    "webm": ("libopus", "libvorbis"),
    "avi": ("pcm_s16le", "pcm_u8"),
}
ELSEWHERE = (  # from, to, sound, and whether it is kept
    *(("mkv", "mp4", codec, True) for codec in ("pcm_s16le", "flac", "libopus", "aac")),
    *(("mkv", "mov", codec, codec == "libmp3lame") for codec in ("libopus", "flac", "libmp3lame")),
    *(("mov", "mkv", codec, True) for codec in ("pcm_s16le", "aac")),
    *(("mp4", "webm", "aac", False), ("mkv", "webm", "libopus", True)),
    *(("mkv", "m4v", codec, False) for codec in ("libmp3lame", "libopus")),
)


def streams() -> Iterator[Named]:
    """Sound, its delay, languages and flags; subtitles; chapters; covers; time codes."""
    twelve = LONGER[:12]
    for container, codecs in AUDIO.items():
        video = {"webm": "libvpx-vp9", "avi": "rawvideo"}.get(container, "libx264")
        for codec in codecs:
            clip = Clip(
                container, video, times=twelve, inputs=SOUND, maps=WITH_SOUND,
                options=("-c:a", codec, "-strict", "-2"),
            )  # fmt: skip
            yield named_clip("streams", f"sound in {codec}", clip)
    for container, target, codec, kept in ELSEWHERE:
        clip = Clip(
            container, times=twelve, inputs=SOUND, maps=WITH_SOUND, target=target,
            options=("-c:a", codec, "-strict", "-2"), lost=() if kept else ("audio",),
            told="" if kept else NOT_COPIED + "audio", moved=True,
        )  # fmt: skip
        yield named_clip("streams", f"sound in {codec}", clip)
    for codec in ("aac", "ac3"):
        clip = Clip(
            "avi", "rawvideo", times=twelve, inputs=SOUND, maps=WITH_SOUND,
            options=("-c:a", codec), refused=f"AVI does not hold {codec} sound",
        )  # fmt: skip
        yield named_clip("streams", f"sound in {codec}", clip)
    for container in ("mp4", "mov", "mkv"):
        yield from _flagged(container)


def _flagged(container: str) -> Iterator[Named]:
    two = (*WITH_SOUND, "-map", "2:a")
    german = ("-metadata:s:a:0", "language=deu", "-metadata:s:a:1", "language=fra")
    cases: dict[str, dict[str, Any]] = {
        "two languages": {
            "inputs": (*SOUND, *SECOND), "maps": two, "options": ("-c:a", "aac", *german),
        },
        "a comment, for the blind": {
            "inputs": (*SOUND, *SECOND), "maps": two,
            "options": ("-c:a", "aac", "-disposition:a:1", "comment+visual_impaired"),
        },
        "sound begins later": {
            "inputs": ("-itsoffset", "0.2", *SOUND), "maps": WITH_SOUND, "options": ("-c:a", "aac"),
        },
        "sound before the video": {
            "inputs": SOUND, "maps": ("-map", "1:a", "-map", "0:v"), "options": ("-c:a", "aac"),
        },
        "a second video": {
            "inputs": ("-f", "lavfi", "-i", "testsrc=s=64x64:d=0.48"),
            "maps": ("-map", "0:v", "-map", "1:v"), "options": ("-c:v:1", "libx264"),
            "told": NOT_COPIED + "further video",
        },
        "chapters": {
            "inputs": ("-i", edits.CHAPTERS), "maps": ("-map", "0:v", "-map_metadata", "1"),
        },
    }  # fmt: skip
    for codec in ("subrip", "ass", "webvtt") if container == "mkv" else ("mov_text",):
        text = {"inputs": ("-i", edits.SUBTITLES), "maps": ("-map", "0:v", "-map", "1:s")}
        flags = ("-metadata:s:s:0", "language=eng", "-disposition:s:0", "forced")
        cases[f"subtitles in {codec}"] = {**text, "options": ("-c:s", codec, *flags)}
        other = "mkv" if container != "mkv" else "mp4"
        cases[f"subtitles in {codec}, elsewhere"] = {
            **text, "options": ("-c:s", codec), "target": other, "lost": ("subtitle",),
            "told": NOT_COPIED + "subtitle",
        }  # fmt: skip
    if container != "mkv":
        cases["a time code"] = {"options": ("-timecode", "01:00:00:00")}
    if container == "mp4":  # FFmpeg writes no covers into MOV
        cases["a cover"] = {
            "inputs": ("-f", "lavfi", "-i", "color=red:s=64x64:d=0.04"),
            "maps": ("-map", "0:v", "-map", "1:v"),
            "options": ("-c:v:1", "mjpeg", "-disposition:v:1", "attached_pic"),
        }  # fmt: skip
    for what, case in cases.items():
        yield named_clip("streams", what, Clip(container, times=LONGER[:12], **case))
