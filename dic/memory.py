"""How much memory a command may use, and the sharing of it among its workers."""

from __future__ import annotations

import argparse
import functools
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from dic.console import UserError
from dic.cores import CGROUPS, cores

SHARE = 0.7  # of what the machine has, that a command takes by default
POLL = 0.1  # seconds after which waiting work looks whether it is still wanted
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
MEMINFO = ("MemTotal", "MemAvailable")
PAGES = re.compile(r"^(?:total_)?(?:in)?active_file (\d+)$", re.MULTILINE)
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
        help=f"memory that the command may take, such as 2G; {effect} (default: 70%% of what "
        "the machine or its control group has)",
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
    value = size / UNITS[unit]
    return f"{value:.0f} {unit}B" if value >= 100 else f"{value:.3g} {unit}B"


def machine(cgroups: Path = CGROUPS, proc: Path = Path("/proc")) -> tuple[int, int] | None:
    """Bytes that this process may have at most, and that it may still take; None if unknown.

    The least of the machine's memory (`MemTotal` and `MemAvailable` of proc_meminfo(5)) and of what
    the process's control groups allow and leave: `memory.max` and `memory.current` of version 2,
    `memory.limit_in_bytes` and `memory.usage_in_bytes` of version 1. Pages of files, which the
    kernel gives back (`inactive_file` and `active_file` of `memory.stat`), count as free.

    Args:
        cgroups: where control groups are mounted.
        proc: where the kernel's process information is mounted.
    """
    found = list(_groups(cgroups, proc / "self" / "cgroup"))
    try:
        text = (proc / "meminfo").read_text()
        kilobytes = [re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE) for name in MEMINFO]
        has, free = (int(match[1]) * 1024 for match in kilobytes if match)
        found.append((has, free))
    except (OSError, ValueError):
        pass
    if not found:
        return None
    return min(has for has, _ in found), max(0, min(free for _, free in found))


def _groups(cgroups: Path, own: Path) -> Iterator[tuple[int, int]]:
    """What each of the process's control groups allows, and leaves."""
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
            yield most, most - used + sum(map(int, PAGES.findall(stat)))


def resident(proc: Path = Path("/proc")) -> int:
    """Bytes of memory that this process has now; 0 if unknown."""
    try:
        found = re.search(r"VmRSS:\s*(\d+) kB", (proc / "self" / "status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


ADVICE = "shrink it, lower --enlarge, or raise --memory"  # for pictures


@functools.cache
def share_of_core() -> int | None:
    """Bytes that the work of one core may take by default, so that all cores' fit; None if unknown.

    For reading files where there is no `--memory`.
    """
    found = machine()
    return int(SHARE * found[0]) // cores() if found else None


class OverBudgetError(UserError):
    """Work needs more memory than all that a command may take."""


class Memory:
    """A budget that workers share: work waits until there is room for it. Thread-safe.

    Args:
        size: bytes that one piece of work may take; None for no limit.
        room: bytes that several at once may take; by default `size`.
        whole: bytes that `size` is left of, for messages; 0 for none.
    """

    def __init__(self, size: int | None, room: int | None = None, whole: int = 0) -> None:
        self.size = size
        self._whole = whole
        self._room = size if room is None else room
        self._held = 0
        self._waiting: deque[object] = deque()  # in the order of asking, so that none starves
        self._changed = threading.Condition()

    @classmethod
    def of(cls, given: int | None, processes: int = 1) -> Self:
        """The budget of a command, or of each of several processes that share it.

        By default, work is refused by what the machine has, which does not change, and waits by
        what is free now.

        Args:
            given: by `--memory`, with what the process has already.
            processes: on this machine.

        Raises:
            UserError: the process has more than that already.
        """
        if given is None:
            has, free = machine() or (None, None)
            if has is None or free is None:
                return cls(None)
            return cls(int(SHARE * has) // processes, int(SHARE * free) // processes)
        left = given // processes - resident()
        if left <= 0:
            among = f", {shown(given // processes)} for each of {processes} processes"
            raise UserError(
                f"--memory {shown(given)}{among if processes > 1 else ''}: the command takes "
                f"{shown(resident())} before it reads a file; give more"
            )
        return cls(left, whole=given // processes)

    @contextmanager
    def taken(
        self,
        need: int,
        name: str,
        advice: str = ADVICE,
        wanted: Callable[[], bool] | None = None,
    ) -> Iterator[None]:
        """Hold memory while some work is done, after waiting for other work to give it back.

        Args:
            need: bytes, an upper bound.
            name: of the work, for the error.
            advice: what to do, for the error.
            wanted: is asked while the work waits; nothing is done once it returns False.

        Raises:
            OverBudgetError: it is more than the budget; at once, and nothing is allocated.
            TimeoutError: it is no longer wanted.
        """
        if self.size is None:
            yield
            return
        if need > self.size:
            least = self._whole - self.size + need
            of = f" (--memory {shown(least)} would do)" if self._whole else ""
            raise OverBudgetError(
                f"{name}: needs up to {shown(need)} of memory, and {shown(self.size)} are allowed"
                f"{of}; {advice}"
            )
        self._take(need, name, wanted)
        try:
            yield
        finally:
            with self._changed:
                self._held -= need
                self._changed.notify_all()

    def _take(self, need: int, name: str, wanted: Callable[[], bool] | None) -> None:
        room, ticket = self._room or 0, object()

        def is_next() -> bool:  # work of more than what is free now runs alone
            return self._waiting[0] is ticket and (not self._held or self._held + need <= room)

        with self._changed:
            self._waiting.append(ticket)
            try:
                while not self._changed.wait_for(is_next, POLL if wanted else None):
                    if wanted and not wanted():
                        raise TimeoutError(f"{name}: is no longer wanted")
                self._held += need
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
