"""How many cores a process may use."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dic.cores import cores, quota


def test_at_least_one_and_no_more_than_the_affinity() -> None:
    assert 1 <= cores() <= 4096


@pytest.mark.parametrize(
    ("own", "files", "allowed"),
    [
        ("0::/pod/app\n", {"pod/app/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/pod/app\n", {"pod/cpu.max": "50000 100000", "pod/app/cpu.max": "max 100000"}, 0.5),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/\n", {"cpu.max": "max 100000"}, math.inf),
        ("0::/\n", {}, math.inf),
        ("0::/\n", {"cpu.max": "nonsense"}, math.inf),
        (
            "4:memory:/a\n3:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        (
            "3:cpu:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
            math.inf,
        ),
    ],
)
def test_quotas(tmp_path: Path, own: str, files: dict[str, str], allowed: float) -> None:
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "own").write_text(own)
    assert quota(tmp_path / "cgroup", tmp_path / "own") == allowed


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert quota(tmp_path, tmp_path / "none") == math.inf
