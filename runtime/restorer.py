"""The library's class: faces of crops, photographs and videos restored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runtime.faces.options import MAX_FACE, Interpolation, PhotoOptions
from runtime.faces.restore import Restorer

if TYPE_CHECKING:
    from runtime.video.restore import RestoredVideo


class FaceRestorer(Restorer):
    """Restores faces with an engine, in crops, photographs and videos.

    See `Restorer` for its arguments and what it does with pictures.
    """

    def restore_video(
        self,
        path: str | Path,
        out: str | Path,
        *,
        max_face: int = MAX_FACE,
        enlarge: int | None = None,
        background: Interpolation | str = Interpolation.CUBIC,
    ) -> RestoredVideo:
        """Restore the faces of a video; sound and subtitles are copied.

        Args:
            path: MP4, MOV, MKV, WebM, AVI or whatever else FFmpeg reads.
            out: the restored video; its suffix tells the container. Whole or not at all.
            max_face, enlarge, background: see `restore_photo`.

        Raises:
            VideoError: it has no face to restore (`NoFaceError`), or cannot be read or written.
            UserError: PyAV is not installed.
        """
        from runtime.video.restore import restore_video

        options = PhotoOptions(max_face, enlarge, Interpolation(background))
        return restore_video(Path(path), Path(out), self, options)
