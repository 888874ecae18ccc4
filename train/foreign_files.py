"""What a file is that is no checkpoint, by its first bytes or an archive's members."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

HEAD = 512  # bytes that are looked at: a tar archive's first header
TAR_MAGIC = slice(257, 262)  # of a tar archive's header (POSIX.1-1988)
STATE = "save its state_dict() with torch.save"

# Signatures of the formats' specifications, and what to do.
_HEADS: tuple[tuple[bytes, str], ...] = (
    (rb"\x1f\x8b", "is compressed by gzip; unpack it"),
    (rb"BZh|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|7z\xbc\xaf\x27\x1c|Rar!", "is an archive; unpack it"),
    (rb"\x89HDF\r\n", "is an HDF5 file, such as Keras's; only PyTorch's checkpoints are read"),
    (
        rb"version https://git-lfs",
        "is Git LFS's pointer to the file, not the file; git lfs pull fetches it",
    ),
    (
        rb"\s*<(?i:!doctype|html|\?xml)",
        "is a web page, such as a server's refusal, not the file; download it again",
    ),
)


def foreign_head(head: bytes) -> str:
    """What a file is and what to do, by its first `HEAD` bytes; empty if it may be a checkpoint."""
    if head[TAR_MAGIC] == b"ustar":
        return (
            "is a tar archive; unpack it (PyTorch before 0.2 saved such: load it there, and "
            f"{STATE})"
        )
    return next((what for pattern, what in _HEADS if re.match(pattern, head)), "")


def foreign_members(names: Sequence[str]) -> str:
    """What a ZIP archive is and what to do, by its members' names; empty for PyTorch's own."""
    # https://docs.pytorch.org/docs/stable/user_guide/torch_compiler/export/pt2_archive.html
    if any(name.endswith("/archive_format") for name in names):
        return f"is a torch.export program, not a checkpoint; {STATE}"
    if any(re.search(r"(^|/)(constants\.pkl|code/.*)$", name) for name in names):
        return f"is a TorchScript program, not a checkpoint; {STATE}"
    if any(name.endswith("/data.pkl") for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return "is a NumPy archive; save its arrays as tensors with torch.save"
    return "is a ZIP archive of other files than PyTorch's; unpack it"


def folder(path: Path) -> str:
    """What a folder is, and what to do."""
    if (path / ".metadata").is_file():
        return (
            "is a distributed checkpoint; make one file of it with python -m "
            "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        )
    return "is a folder; give a file"
