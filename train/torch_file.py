"""Checkpoint files, PyTorch's and safetensors: read as data, within their own size, whatever wraps
the tensors.

PyTorch's are read with `weights_only=True`, so a pickle that would run code is refused.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
from torch import Tensor

from dic.console import UserError
from dic.files import open_regular
from train import foreign_files

# PyTorch stores tensors uncompressed. More bytes than this many times the file's are no weights.
LARGEST_EXPANSION = 4
CHUNK = 2**20  # bytes
PROTOCOL = 2  # of pickle, which torch.save writes and PyTorch reads as data
# Modules that trainers put around others, wherever in the network.
WRAPPERS = re.compile(
    r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


class CheckpointError(UserError):
    """The file is not a usable DIC checkpoint. The message is one line and says why."""


def read(path: Path) -> tuple[dict[str, Any], str]:
    """Read a file written by `torch.save`; only tensors and plain data are loaded.

    Returns:
        the content, and the SHA-256 of the file in hexadecimal.

    Raises:
        CheckpointError: the file cannot be read, is no regular file, is damaged or of another
            format, is unsafe, would take more memory than its size warrants, or does not contain a
            dictionary.
    """
    try:
        if path.is_dir():
            raise CheckpointError(f"{path}: {foreign_files.folder(path)}")
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            content = _load(path, file) if file.tell() else None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    if not isinstance(content, dict):
        actual = "nothing" if content is None else f"a {type(content).__name__}"
        raise CheckpointError(f"{path}: contains {actual}, not a checkpoint")
    return content, sha256


def _load(path: Path, file: io.BufferedReader) -> Any:
    """The content of an open file, by its format.

    Raises:
        CheckpointError: see `read`.
    """
    file.seek(0)
    head = file.read(foreign_files.HEAD)
    try:
        if head[8:9] == b"{":  # after the size of safetensors' header, which is JSON
            file.seek(0)
            return safetensors.torch.load(file.read())
        if why := foreign_files.foreign_head(head):
            raise CheckpointError(f"{path}: {why}")
        _check_archive(path, file)
        file.seek(0)
        with warnings.catch_warnings(), torch.serialization.safe_globals(IGNORED):
            warnings.simplefilter("ignore")  # about pickle protocols; errors are raised below
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can make the unpickler raise anything
        # PyTorch's message has several paragraphs; only the name of the refused object matters.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not (isinstance(error, pickle.UnpicklingError) and refused):
            raise CheckpointError(f"{path}: damaged, or not a PyTorch checkpoint") from error
        raise CheckpointError(
            f"{path}: refused, it would run {refused[1]}; only tensors and plain data are loaded: "
            f"{foreign_files.STATE}"
        ) from error


class _Ignored:
    """Stands for a record without tensors: takes what its class is given, and forgets it."""

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


# What many trainers store beside the weights. Their own classes are neither called nor imported:
# of NumPy's, a crafted state can make pointers of numbers.
IGNORED: list[Any] = [
    (_Ignored, name)
    for name in (
        "argparse.Namespace",
        *(
            f"pathlib.{part}{system}Path"
            for part in ("", "_local.")
            for system in ("Posix", "Windows")
        ),
        *("numpy.dtype", "numpy.ndarray"),
        *(
            f"numpy.{core}.multiarray.{function}"
            for core in ("core", "_core")
            for function in ("scalar", "_reconstruct")
        ),
    )
]


def _check_archive(path: Path, file: io.BufferedReader) -> None:
    """Check what a ZIP archive's directory says before anything is expanded, and its checksums.

    PyTorch does not compare the checksums that it stores.

    Raises:
        CheckpointError: it is of another format, expands to far more than the file, or was saved
            with a pickle protocol that is not read as data.
        zipfile.BadZipFile: a checksum is another.
    """
    file.seek(0)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        file.seek(0)  # PyTorch's older format, or damage, which loading tells
        _check_protocol(path, file.read(2))
        return
    with archive:
        members = archive.infolist()
        if why := foreign_files.foreign_members([member.filename for member in members]):
            raise CheckpointError(f"{path}: {why}")
        expanded, size = sum(member.file_size for member in members), file.seek(0, 2)
        if expanded > LARGEST_EXPANSION * size:
            raise CheckpointError(
                f"{path}: refused, its {size / 1e6:.1f} MB would expand to {expanded / 1e6:.0f} MB"
            )
        for member in members:
            with archive.open(member) as record:
                if member.filename.endswith("/data.pkl"):
                    _check_protocol(path, record.read(2))
                # 0: torch.save was told to store none (`set_crc32_options`)
                while member.CRC and record.read(CHUNK):
                    pass


def _check_protocol(path: Path, start: bytes) -> None:
    """Raise CheckpointError if a pickle has a newer protocol than PyTorch reads as data."""
    if start[:1] == pickle.PROTO and start[1:] > bytes([PROTOCOL]):
        raise CheckpointError(
            f"{path}: refused, it was saved with pickle protocol {start[1]}, and only {PROTOCOL}, "
            "torch.save's default, is loaded as data; save it again with that"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of any PyTorch checkpoint, by their names in the innermost state dict.

    Raises:
        CheckpointError: the file cannot be read, is unsafe, or contains no tensors.
    """
    content, _ = read(path)
    held: Mapping[Any, Any] = content
    while not any(isinstance(value, Tensor) for value in held.values()):
        inner = [value for value in held.values() if isinstance(value, Mapping) and flat(value)]
        if not inner:
            raise CheckpointError(f"{path}: contains no tensors")
        held = max(inner, key=lambda mapping: len(flat(mapping)))
    try:
        return weights(flat(held))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def flat(content: object, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of nested mappings, by their keys joined with dots, however they are wrapped.

    A mapping that occurs several times, or within itself, counts where it occurs first.
    """
    tensors: dict[str, Tensor] = {}
    entered = {id(content)}
    open_ones = [(prefix, iter(content.items()))] if isinstance(content, Mapping) else []
    while open_ones:  # not by recursion: there may be any number of levels
        before, items = open_ones[-1]
        for key, value in items:
            if isinstance(value, Tensor):
                tensors[f"{before}{key}"] = value
            elif isinstance(value, Mapping) and id(value) not in entered:
                entered.add(id(value))
                open_ones.append((f"{before}{key}.", iter(value.items())))
                break
        else:
            open_ones.pop()
    return tensors


def part(tensors: Mapping[str, Tensor], marks: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of one network among others, without what its wrappers added to their names.

    The prefix is what stands before a mark, a name that only this network has. Averaged weights
    (EMA) are preferred if there are several. `WRAPPERS` are taken off within names as well.

    Args:
        tensors: by name, see `flat`.
        marks: such as "hour_glass.".

    Returns:
        empty if no name has a mark.
    """
    mark = re.compile(rf"^(.*?)(?<![^.])(?:{'|'.join(map(re.escape, marks))})")
    prefixes = dict.fromkeys(found[1] for name in tensors if (found := mark.match(name)))
    if not prefixes:
        return {}
    chosen = max(prefixes, key=lambda prefix: ("ema" in prefix.lower(), -len(prefix)))
    return {
        WRAPPERS.sub("", name.removeprefix(chosen)): tensor
        for name, tensor in tensors.items()
        if name.startswith(chosen)
    }


def weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Check that tensors are dense floating point, and as large as the file made them.

    Whole numbers of one element are counters, and left out.

    Raises:
        ValueError: names the first that is not, or there are none.
    """
    if not tensors:
        raise ValueError("contains no tensors")
    kept = {}
    for name, tensor in tensors.items():
        dense = tensor.layout == torch.strided
        if dense and tensor.numel() == 1 and not tensor.is_floating_point():
            continue
        if not dense or not tensor.is_floating_point():
            raise ValueError(
                f"{name} is a {tensor.layout} {tensor.dtype} tensor, not dense floating point"
            )
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device and holds no data")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} has {tensor.numel()} elements, more than the file stores")
        kept[name] = tensor
    return kept
