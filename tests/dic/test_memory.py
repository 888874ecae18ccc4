"""What a process may take, sizes as they are written, and workers that share a budget."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dic.console import UserError
from dic.memory import Memory, OverBudgetError, available, budget, parse_size, shown

G = 2**30


@pytest.mark.parametrize(
    ("text", "size"),
    [("2G", 2 * G), ("1.5 GiB", 3 * G // 2), ("800M", 800 * 2**20), ("7kb", 7168), ("123", 123)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert parse_size(shown(size).replace(" ", "")) == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "1e9", "2 gigs", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("own", "files", "free"),
    [
        ("0::/\n", {}, 8 * G),
        ("0::/\n", {"memory.max": "max", "memory.current": "5", "memory.stat": ""}, 8 * G),
        (
            "0::/pod/app\n",
            {
                "pod/memory.max": str(4 * G),
                "pod/memory.current": str(3 * G),
                "pod/memory.stat": f"anon 1\ninactive_file {G // 2}\n",
                "pod/app/memory.max": "max",
                "pod/app/memory.current": "1",
                "pod/app/memory.stat": "",
            },
            3 * G // 2,
        ),
        (
            "4:memory:/a\n3:cpu:/a\n",
            {
                "memory/a/memory.limit_in_bytes": str(2 * G),
                "memory/a/memory.usage_in_bytes": str(3 * G),
                "memory/a/memory.stat": "total_inactive_file 0\n",
            },
            0,
        ),
    ],
)
def test_what_is_free(tmp_path: Path, own: str, files: dict[str, str], free: int) -> None:
    """By the least of the machine's and the groups' limits (cgroup v1 and v2)."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    for path, text in {
        proc / "self" / "cgroup": own,
        proc / "meminfo": f"MemTotal: 1 kB\nMemAvailable:  {8 * 2**20} kB\n",
        **{cgroups / name: text for name, text in files.items()},
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available(cgroups, proc) == free


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    assert available(tmp_path, tmp_path) is None


def test_a_budget_that_is_taken_already() -> None:
    with pytest.raises(UserError, match=r"--memory 1 MB: the command takes .* give more"):
        budget(2**20)


def test_work_waits_for_what_other_work_holds_and_too_much_is_refused() -> None:
    memory, held, most, lock = Memory(100), 0, 0, threading.Lock()

    def work() -> None:
        nonlocal held, most
        with memory.taken(40, "work"):
            with lock:
                held += 40
                most = max(most, held)
            with lock:
                held -= 40

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most <= 100
    with pytest.raises(OverBudgetError, match="big: needs up to 101 B of memory, and 100 B are"):
        memory.taken(101, "big").__enter__()
    with memory.taken(100, "all"):
        waiting = threading.Thread(target=work)
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()
    with Memory(None).taken(10**15, "no limit"):
        pass
