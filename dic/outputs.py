"""No output replaces a file that a command reads. Every command asks before anything runs."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Hashable, Iterable
from pathlib import Path

from dic.console import UserError
from dic.files import check_writable


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Check that files can be written, and that none of them is read.

    Args:
        outputs: all files that the command may write.
        inputs: all files that it reads. Of a folder, all files in it count that exist already.

    Raises:
        UserError: see `check_writable` and `refuse_inputs`.
    """
    outputs = list(outputs)
    refuse_inputs(outputs, inputs)
    for output in outputs:
        check_writable(output)


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Check that no output is an input, by whatever path, link or spelling.

    Two paths are one file if they lead to one inode (symbolic and hard links, `..`, file systems
    that ignore case or the form of accents), or if their real paths differ in case or in the form
    of accents only: they are one file as soon as the folder is copied to such a file system.

    Raises:
        UserError: names the input that would be overwritten.
    """
    read: dict[Hashable, Path] = {}
    folders: list[Path] = []
    for path in inputs:
        read |= dict.fromkeys(_identities(path), path)
        if path.is_dir():
            folders.append(path)
    places = [(folder, Path(_spelling(folder))) for folder in folders]
    for output in outputs:
        same = next((read[key] for key in _identities(output) if key in read), None)
        if same is not None:
            raise UserError(_refusal(same, output))
        if places and output.exists():
            real = Path(_spelling(output))
            for folder, place in places:
                if real.is_relative_to(place):
                    raise UserError(
                        f"{output}: would be overwritten, and is in {folder}, which is read; "
                        "choose another output"
                    )


def _refusal(read: Path, output: Path) -> str:
    by = "" if output == read else f" by {output}, which is the same file"
    return f"{read}: would be overwritten{by}; choose another output"


def repeated(outputs: Iterable[Path]) -> tuple[Path, Path] | None:
    """The first two outputs that are one file here; None if all are different.

    Names that differ in case or in the form of accents only are different files on most systems,
    where an album may have both.
    """
    seen: dict[Hashable, Path] = {}
    folding: dict[Path, bool] = {}
    for output in outputs:
        parent = output.parent
        if parent not in folding:
            folding[parent] = _ignores_case(parent)
        keys = _identities(output) if folding[parent] else (os.path.realpath(output),)
        for key in keys:
            if key in seen:
                return seen[key], output
        seen |= dict.fromkeys(keys, output)
    return None


def _identities(path: Path) -> tuple[Hashable, ...]:
    """What two paths of one file have in common: an inode, if it exists, and a spelling."""
    try:
        status = path.stat()
    except OSError:
        return (_spelling(path),)
    return (status.st_dev, status.st_ino), _spelling(path)


def _spelling(path: Path) -> str:
    """The real path without differences of case and of the form of accents.

    Decomposed, folded and decomposed again (Unicode 3.13, D145): folding may compose anew.
    """
    folded = unicodedata.normalize("NFD", os.path.realpath(path)).casefold()
    return unicodedata.normalize("NFD", folded)


def _ignores_case(folder: Path) -> bool:
    """Whether a file system takes names that differ in case for one, by the nearest name there."""
    for place in (folder.absolute(), *folder.absolute().parents):
        other = place.with_name(place.name.swapcase()) if place.name else place
        if other != place and place.exists():
            return other.exists() and other.samefile(place)
    return False
