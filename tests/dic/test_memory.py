"""What a process may take, sizes as they are written, and workers that share a budget."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from dic.console import UserError
from dic.memory import Memory, OverBudgetError, machine, parse_size, shown

G = 2**30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2G", 2 * G),
        ("1.5 GiB", 3 * G // 2),
        ("800M", 800 * 2**20),
        ("7kb", 7168),
        ("123", 123),
        ("1010M", 1010 * 2**20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(shown(size).replace(" ", "")) == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "1e9", "2 gigs", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("own", "files", "has", "free"),
    [
        ("0::/\n", {}, 16 * G, 8 * G),
        ("0::/\n", {"memory.max": "max", "memory.current": "5", "memory.stat": ""}, 16 * G, 8 * G),
        (
            "0::/pod/app\n",
            {
                "pod/memory.max": str(4 * G),
                "pod/memory.current": str(3 * G),
                "pod/memory.stat": f"anon 1\ninactive_file {G // 4}\nactive_file {G // 4}\n",
                "pod/app/memory.max": "max",
                "pod/app/memory.current": "1",
                "pod/app/memory.stat": "",
            },
            4 * G,
            3 * G // 2,
        ),
        (
            "4:memory:/a\n3:cpu:/a\n",
            {
                "memory/a/memory.limit_in_bytes": str(2 * G),
                "memory/a/memory.usage_in_bytes": str(3 * G),
                "memory/a/memory.stat": "total_inactive_file 0\n",
            },
            2 * G,
            0,
        ),
    ],
)
def test_what_a_process_may_take(
    tmp_path: Path, own: str, files: dict[str, str], has: int, free: int
) -> None:
    """By the least of the machine's and the groups' limits (cgroup v1 and v2)."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    for path, text in {
        proc / "self" / "cgroup": own,
        proc / "meminfo": f"MemTotal: {16 * 2**20} kB\nMemAvailable:  {8 * 2**20} kB\n",
        **{cgroups / name: text for name, text in files.items()},
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert machine(cgroups, proc) == (has, free)


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    assert machine(tmp_path, tmp_path) is None


def test_a_budget_that_is_taken_already() -> None:
    with pytest.raises(UserError, match=r"--memory 1 MB: the command takes .* give more"):
        Memory.of(2**20)
    with pytest.raises(UserError, match=r"--memory 2 MB, 1 MB for each of 2 processes: "):
        Memory.of(2**21, 2)


def test_too_much_is_refused_and_no_limit_refuses_nothing() -> None:
    with pytest.raises(OverBudgetError, match="big: needs up to 101 B of memory, and 100 B are"):
        Memory(100).taken(101, "big").__enter__()
    with Memory(None).taken(10**15, "no limit"):
        pass


def started(memory: Memory, need: int, done: list[int], release: threading.Event) -> None:
    """Work in a thread, which appends what it needs when it begins, and ends when released."""

    def work() -> None:
        with memory.taken(need, "work"):
            done.append(need)
            release.wait(60)

    waiting = len(memory._waiting) + len(done)
    threading.Thread(target=work, daemon=True).start()
    while len(memory._waiting) + len(done) == waiting:
        time.sleep(0.001)


def test_work_waits_in_order_for_what_other_work_holds() -> None:
    memory, begun, release = Memory(100), list[int](), threading.Event()
    for need in (40, 60):
        started(memory, need, begun, release)
    for need in (90, 10):  # the small one comes after the large one, which would starve otherwise
        started(memory, need, begun, threading.Event())
    assert begun == [40, 60]
    with pytest.raises(TimeoutError):
        memory.taken(1, "abandoned", wanted=lambda: False).__enter__()
    release.set()
    deadline = time.monotonic() + 60
    while len(begun) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert begun == [40, 60, 90, 10]


def test_work_of_more_than_is_free_runs_alone() -> None:
    memory = Memory(100, room=30)
    with memory.taken(80, "large"), pytest.raises(TimeoutError):
        memory.taken(1, "small", wanted=lambda: False).__enter__()
    with memory.taken(20, "one"), memory.taken(10, "another"):
        pass
