"""Results that are measured in parts: the parts asked for, and a file that keeps the others."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dic.console import Parser, UserError
from dic.files import write_json


def check_parts(parser: Parser, given: Collection[str], known: Collection[str]) -> None:
    """Raise a usage error if a part is unknown. With `choices`, argparse would want one."""
    if unknown := set(given) - set(known):
        parser.error(f"{sorted(unknown)[0]} is none of {', '.join(known)}")


def read_kept(path: Path | None) -> dict[str, Any]:
    """The content of a results file that is written again; empty if there is none."""
    if path is None or not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def write_rows(
    path: Path, seed: int, key: str, name: str, rows: list[dict[str, Any]], order: Sequence[str]
) -> None:
    """Write rows as JSON among those of a file that is there.

    Args:
        seed: of the rows, and of the file.
        key: of the list in the file.
        name: key of a row's name, by which it replaces an older one.
        order: of the names.

    Raises:
        UserError: the file's rows have another seed, or it cannot be written.
    """
    kept = read_kept(path)
    if kept and kept["seed"] != seed:
        raise UserError(f"{path}: has results of seed {kept['seed']}; choose another file")
    held = {row[name]: row for row in (*kept.get(key, ()), *rows)}
    write_json(path, {"seed": seed, key: [held[one] for one in order if one in held]})
