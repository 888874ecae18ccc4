"""The CPU cores that this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """Return how many CPU cores this process may use: its affinity where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
