"""The server under load, among clients that misbehave, and under mutated requests; each briefly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Command, one_line_error

from benchmarks.serve import main
from benchmarks.serving.load import Load, table
from benchmarks.serving.soak import Soak, _record, _Sample


def test_load_soak_and_fuzz(
    tiny_engine: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "serving.json"
    brief = ("--clients=1", "--seconds=0.5", "--rounds=1", "--minutes=0.1", "--requests=300")
    status = main(["load", "soak", "fuzz", f"--engine={tiny_engine}", f"--json={out}", *brief])
    printed = capfd.readouterr().out
    assert status == 0, printed
    results = json.loads(out.read_text())
    names = [load["contender"] for load in results["loads"]]
    assert names == ["engine, no server", "this server, HTTP", "this server, gRPC"]
    assert all(load["requests"] > 0 and load["p50"] <= load["p99"] for load in results["loads"])
    assert "| 1 | this server, gRPC |" in printed
    soak = results["soak"]
    assert soak["answered"] > 0
    assert soak["lost"] == soak["wrong"] == soak["tracebacks"] == soak["status"] == 0, soak
    assert set(soak["misbehaved"]) == {"vanish", "garbage", "large", "trickle"}
    fuzz = results["fuzz"]
    assert not fuzz["faults"]
    assert fuzz["alive"]
    assert sum(fuzz["statuses"].values()) == 300
    assert {"400", "INVALID_ARGUMENT"} <= set(fuzz["statuses"])


def test_the_table_compares_with_the_engine() -> None:
    loads = [Load("engine", 1, 20.0, 50.0, 60.0, 9), Load("HTTP", 1, 19.0, 51.5, 66.0, 9)]
    assert (
        table(loads, "engine").splitlines()[-1] == "| 1 | HTTP | 19.0 | 95 % | 51.5 | +1.5 | 66.0 |"
    )


def test_growth_is_per_request_in_the_second_half() -> None:
    soak = Soak(240.0)
    memory = {60: 100.0, 120: 400.0, 180: 402.0, 240: 404.0}
    _record(soak, [_Sample(s, 100 * s, mib, 9, 9) for s, mib in memory.items()])
    assert soak.minutes == [100.0, 400.0, 402.0, 404.0]
    assert soak.growth == pytest.approx(2 / 6)  # MiB per 1,000 requests
    assert soak.memory == (100.0, 404.0, 404.0)


def test_wrong_calls(command: Command) -> None:
    for line, why in (
        (["sit"], "invalid choice"),
        (["load", "--http", "triton"], "must be NAME=HOST:PORT"),
        (["load", "--clients", "0"], "must be 1 or more"),
        (["soak", "--minutes", "0"], "must be more than 0"),
    ):
        assert why in one_line_error(command("benchmarks.serve", *line), 2)
