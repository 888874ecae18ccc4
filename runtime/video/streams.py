"""Which streams of a video go into its result as they are, and which its container cannot hold."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import av

from runtime.video.reader import Reader, is_cover

# Containers in which FFmpeg stores a cover picture as one, and a time code by its name.
WITH_COVERS = (".mp4", ".m4v")
WITH_TIMECODES = (".mp4", ".mov")
WITHOUT_CHAPTERS = (".avi",)
UNUSED = av.stream.Discard.all  # what FFmpeg reads itself, such as the titles of chapters


def format_of(suffix: str) -> str:
    """FFmpeg's name of the container that a suffix stands for."""
    return str(av.open(f"of{suffix}", "w").format.name)  # no file is opened before its header


def kept(source: Reader, suffix: str) -> Iterator[tuple[Any, str]]:
    """All streams but the one that is restored, each with what is lost of it.

    Args:
        source: the video.
        suffix: of the result.

    Yields:
        a stream, and the words for it if it is not copied; else an empty text.
    """
    container = format_of(suffix)
    for stream in source.container.streams:
        if stream is source.stream or (stream.type == "data" and stream.discard == UNUSED):
            continue
        if is_cover(stream):
            stays = suffix in WITH_COVERS and holds(container, stream)
            yield stream, "" if stays else "cover picture"
        elif stream.type == "video":
            yield stream, "further video"
        elif stream.type == "data":
            stays = suffix in WITH_TIMECODES and "timecode" in stream.metadata
            yield stream, "" if stays else "data"
        else:
            yield stream, "" if holds(container, stream) else stream.type


def holds(container: str, stream: Any) -> bool:
    """Whether a container takes a stream's codec, as its header shows once it is written."""
    trial = av.open(io.BytesIO(), "w", format=container)
    try:
        trial.add_stream_from_template(stream, opaque=True)
        trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with suppress(av.FFmpegError, ValueError):
            trial.close()
    return True
