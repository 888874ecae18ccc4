"""JSON and TOML of unknown origin: what the standard library cannot parse is a `ValueError`.

Its parsers recurse, so that deep nesting raises `RecursionError`, which handlers of malformed
documents do not expect.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON document; raises ValueError if it is malformed or nested too deeply."""
    return _parsed(json.loads, text)


def parse_toml(text: str) -> dict[str, Any]:
    """The content of a TOML document.

    Raises:
        ValueError: it is malformed, nested too deeply, or has an integer of thousands of digits.
    """
    content: dict[str, Any] = _parsed(tomllib.loads, text)
    return content


def _parsed(parse: Callable[[Any], Any], text: str | bytes) -> Any:
    try:
        return parse(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
