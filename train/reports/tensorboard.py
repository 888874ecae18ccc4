"""TensorBoard's event file, written by the thread that trains.

PyTorch's SummaryWriter writes from a thread of its own, which dies with a traceback where the disk
is full. Curves are not worth a run: here they end with a word, and the training goes on.
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
    """Curves and pictures of one run.

    Args:
        folder: a file is begun in it.
        start: the first iteration to come; what an earlier file has from there on is void.
        warn: called once with a line where the file cannot be written (any more).
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

    def add_image(self, name: str, picture: NDArray[np.uint8], iteration: int) -> None:
        """Add an (H, W, 3) uint8 RGB picture, and see that all so far is on the disk."""
        self._write(Event(step=iteration, summary=image(name, picture, dataformats="HWC")))
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
        self.warn(f"warning: {self.folder}: no more curves: {error.strerror or error}")
        if file is not None:
            with suppress(OSError):  # what was buffered is lost, as has been said
                file.close()
