"""The CPU cores that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Return how many CPU cores this process may use, at least 1.

    The least of its affinity, where the system has one, and of its control groups' CPU quotas,
    rounded up: a container limited to 1.5 CPUs has 2 cores.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, math.ceil(min(count, quota())))


def quota(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float:
    """Return the CPUs that the process's control groups allow it; infinity without a limit.

    Reads `cpu.max` of version 2 (kernel documentation, cgroup-v2, CPU interface files) in the
    process's group and those above it, or `cpu.cfs_quota_us` of version 1.

    Args:
        cgroups: where control groups are mounted.
        own: the file that names the process's own.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return math.inf
    allowed, names = math.inf, ["cpu.max"]
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers == "":
            folder, names = cgroups, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            folder, names = cgroups / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # In a container the path may be the host's, and its own group is mounted as the root.
        groups = [Path(path.lstrip("/")), *Path(path.lstrip("/")).parents]
        for group in groups:
            try:
                text = " ".join((folder / group / name).read_text() for name in names)
                most, period = map(float, text.split())
            except (OSError, ValueError):  # "max": no limit
                continue
            if most > 0 and period > 0:
                allowed = min(allowed, most / period)
    return allowed
