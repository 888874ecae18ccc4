"""TensorBoard event files, written synchronously.

PyTorch's SummaryWriter writes in a background thread, which fails with a traceback when the disk is
full. Here, an error ends the event file with a warning, and training continues.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image, scalar


class Events:
    """The event file of one run.

    Args:
        folder: in which a new file is created.
        start: the first iteration to be written; TensorBoard discards events of earlier files from
            this iteration on.
        warn: called once, with a one-line message, if the file cannot be written.
    """

    def __init__(self, folder: Path, start: int, warn: Callable[[str], None]) -> None:
        self.folder, self.warn = folder, warn
        self.file: IO[bytes] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
            self.file = (folder / name).open("wb")
        except OSError as error:
            self._give_up(error)
        self._write(Event(file_version="brain.Event:2", step=start))
        self._write(Event(step=start, session_log=SessionLog(status=SessionLog.START)))

    def add_scalar(self, name: str, value: float, iteration: int) -> None:
        self._write(Event(step=iteration, summary=scalar(name, value)))

    def add_image(self, name: str, pixels: NDArray[np.uint8], iteration: int) -> None:
        """Add an (H, W, 3) uint8 RGB image, and flush the file."""
        self._write(Event(step=iteration, summary=image(name, pixels, dataformats="HWC")))
        self._guarded(lambda file: file.flush())

    def close(self) -> None:
        self._guarded(lambda file: file.close())
        self.file = None

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        self._guarded(lambda file: RecordWriter(file).write(data))

    def _guarded(self, act: Callable[[IO[bytes]], Any]) -> None:
        if self.file is not None:
            try:
                act(self.file)
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        file, self.file = self.file, None
        self.warn(
            f"warning: {self.folder}: cannot be written ({error.strerror or error}); training "
            "continues without TensorBoard events"
        )
        if file is not None:
            with suppress(OSError):  # the buffered events are lost; the warning above covers this
                file.close()
