"""How much memory a command may use, and the sharing of it among its workers."""

from __future__ import annotations

import argparse
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dic.console import UserError
from dic.cores import CGROUPS

SHARE = 0.7  # of what is free, that a command takes by default
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)


def add_memory_option(add: Callable[..., object], effect: str) -> None:
    """Add `--memory` to a command.

    Args:
        add: `add_argument` of a parser or group.
        effect: of less memory, for the help.
    """
    add(
        "--memory",
        type=_argument,
        metavar="SIZE",
        help=f"memory that the command may take, such as 2G; {effect} (default: 70%% of what is "
        "free)",
    )


def _argument(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_size(text: str) -> int:
    """Bytes of a size such as "2G", "1.5 GiB" or "800M"; units are powers of 1024.

    Raises:
        ValueError: it is none, or not positive.
    """
    found = SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise ValueError(f"{text!r} is no size; write it as 2G or 800M")
    return size


def shown(size: float) -> str:
    """A size for messages, such as "1.5 GB", in powers of 1024 like `parse_size`."""
    unit = next((unit for unit in "TGMK" if size >= UNITS[unit]), "")
    return f"{size / UNITS[unit]:.3g} {unit}B"


def available(cgroups: Path = CGROUPS, proc: Path = Path("/proc")) -> int | None:
    """Bytes that this process may still take without swapping or being killed; None if unknown.

    The least of the machine's available memory (`MemAvailable` of proc_meminfo(5)) and of what the
    process's control groups leave: `memory.max` and `memory.current` of version 2,
    `memory.limit_in_bytes` and `memory.usage_in_bytes` of version 1. Pages of files that the
    kernel gives back (`inactive_file` of `memory.stat`) count as free.

    Args:
        cgroups: where control groups are mounted.
        proc: where the kernel's process information is mounted.
    """
    free = list(_groups(cgroups, proc / "self" / "cgroup"))
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", (proc / "meminfo").read_text())
        free += [int(found[1]) * 1024] if found else []
    except OSError:
        pass
    return max(0, min(free)) if free else None


def _groups(cgroups: Path, own: Path) -> Iterator[int]:
    """What each of the process's control groups leaves."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers == "":
            folder, names = cgroups, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            folder, names = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # In a container the path may be the host's, and its own group is mounted as the root.
        for group in (Path(path.lstrip("/")), *Path(path.lstrip("/")).parents):
            try:
                most, used = (int((folder / group / name).read_text()) for name in names)
                stat = (folder / group / "memory.stat").read_text()
            except (OSError, ValueError):  # "max": no limit
                continue
            pages = re.search(r"^(?:total_)?inactive_file (\d+)$", stat, re.MULTILINE)
            yield most - used + (int(pages[1]) if pages else 0)


def budget(given: int | None, processes: int = 1) -> int | None:
    """The bytes that a command's work may take at once; None if nothing is known.

    Args:
        given: by `--memory`, with what the process has already; by default a share of what is free.
        processes: that share it.

    Raises:
        UserError: the process has more than that already.
    """
    if given is None:
        free = available()
        return None if free is None else int(SHARE * free) // processes
    left = given // processes - resident()
    if left <= 0:
        raise UserError(
            f"--memory {shown(given)}: the command takes {shown(resident())} before it reads a "
            "file; give more"
        )
    return left


def resident(proc: Path = Path("/proc")) -> int:
    """Bytes of memory that this process has now; 0 if unknown."""
    try:
        found = re.search(r"VmRSS:\s*(\d+) kB", (proc / "self" / "status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


ADVICE = "shrink it, lower --enlarge, or "  # for pictures


class OverBudgetError(UserError):
    """Work needs more memory than all that a command may take."""


class Memory:
    """A budget that workers share: work waits until what it needs is free. Thread-safe.

    Args:
        size: bytes; None for no limit.
    """

    def __init__(self, size: int | None) -> None:
        self.size = size
        self._free = size or 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, need: int, name: str, advice: str = ADVICE) -> Iterator[None]:
        """Hold memory while some work is done, after waiting for other work to give it back.

        Args:
            need: bytes, an upper bound.
            name: of the work, for the error.
            advice: what to do instead of raising `--memory`, for the error.

        Raises:
            OverBudgetError: it is more than the budget; at once, and nothing is allocated.
        """
        if self.size is None:
            yield
            return
        if need > self.size:
            raise OverBudgetError(
                f"{name}: needs up to {shown(need)} of memory, and {shown(self.size)} are allowed; "
                f"{advice}raise --memory"
            )
        with self._changed:
            self._changed.wait_for(lambda: self._free >= need)
            self._free -= need
        try:
            yield
        finally:
            with self._changed:
                self._free += need
                self._changed.notify_all()
