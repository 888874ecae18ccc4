"""Progress bars count time by a clock that is never set."""

from __future__ import annotations

import itertools

import pytest

from dic.progress import Progress


def test_a_clock_that_is_set_back_stops_no_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The system's clock loses an hour with each look; the other one gains 11 seconds."""
    wall, steady = itertools.count(1e9, -3600), itertools.count(0, 11)
    monkeypatch.setattr("time.time", lambda: next(wall))
    monkeypatch.setattr("tqdm.std.time", lambda: next(wall))
    monkeypatch.setattr("time.monotonic", lambda: next(steady))
    with Progress(total=4, desc="work") as bar:
        for _ in range(4):
            bar.update()
        elapsed = bar.format_dict["elapsed"]
    assert elapsed > 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == ["1/4", "2/4", "3/4", "4/4"], lines
