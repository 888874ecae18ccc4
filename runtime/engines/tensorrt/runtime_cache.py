"""TensorRT-RTX's runtime cache on disk: kernels are compiled once per GPU, driver and version.

The file is a program, like a plan: it lies in the user's own cache folder, and is not read if
others may write there. TensorRT-RTX itself refuses one of another GPU, version or driver.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from dic.console import UserError
from dic.files import write_whole

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`dic-toolkit/tensorrt-rtx` in $XDG_CACHE_HOME, by default ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dic-toolkit" / "tensorrt-rtx"


class RuntimeCache:
    """The cache of one plan on one GPU.

    Args:
        held: the library's IRuntimeCache, empty; filled from the file if there is one.
        identity: GPU, driver and library version.
        plan: content of the plan.
    """

    def __init__(self, held: Any, identity: str, plan: bytes) -> None:
        key = hashlib.sha256(identity.encode() + hashlib.sha256(plan).digest()).hexdigest()[:32]
        self._held, self._path, self._saved = held, cache_folder() / f"{key}.cache", 0
        try:
            folder = self._path.parent.stat()
            if hasattr(os, "getuid") and (folder.st_uid != os.getuid() or folder.st_mode & 0o022):
                log.info("%s: not read: others may write to it", self._path.parent)
                return
            blob = self._path.read_bytes()
        except OSError:  # none yet
            return
        if held.deserialize(blob):
            self._saved = len(blob)
        else:
            log.info("%s: not usable here; kernels are compiled again", self._path)

    def save(self) -> None:
        """Write the cache if it has grown. A failure costs time at the next start, no more."""
        blob = bytes(memoryview(self._held.serialize()))
        if len(blob) == self._saved:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(self._path, blob)
            self._saved = len(blob)
        except (OSError, UserError) as error:
            log.info("compiled kernels are not kept: %s", error)
