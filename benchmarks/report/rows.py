"""Results files that are measured in parts: the rows of other parts are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dic.console import UserError
from dic.files import write_json


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
    held: dict[str, dict[str, Any]] = {}
    if path.exists():
        content = json.loads(path.read_bytes())
        if content["seed"] != seed:
            raise UserError(f"{path}: has results of seed {content['seed']}; choose another file")
        held = {row[name]: row for row in content[key]}
    held |= {row[name]: row for row in rows}
    write_json(path, {"seed": seed, key: [held[one] for one in order if one in held]})
