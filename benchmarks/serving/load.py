"""Throughput and latency of servers beside those of the engine without one, in one run."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.serving.clients import Factory, together
from dic.progress import Progress

PAUSE = 0.5  # seconds between measurements


@dataclass(frozen=True)
class Load:
    """One contender with a number of clients, each of which asks for a face after the other.

    Attributes:
        contender: its name.
        clients: number of clients at once.
        throughput: faces per second, the median over rounds.
        p50, p99: percentiles of the time of a request over all rounds, ms.
        requests: that were measured.
    """

    contender: str
    clients: int
    throughput: float
    p50: float
    p99: float
    requests: int


def measure(
    contenders: Mapping[str, Factory], clients: Sequence[int], seconds: float, rounds: int
) -> list[Load]:
    """Measure all contenders in turn, `rounds` times, for each number of clients.

    Args:
        seconds: of each measurement.
    """
    loads = []
    with Progress(total=len(clients) * rounds * len(contenders), desc="load", unit="run") as bar:
        for count in clients:
            rates: dict[str, list[float]] = {name: [] for name in contenders}
            times: dict[str, list[float]] = {name: [] for name in contenders}
            for _ in range(rounds):
                for name, factory in contenders.items():
                    rate, latencies = _run(factory, count, seconds)
                    rates[name].append(rate)
                    times[name] += latencies
                    bar.update()
                    time.sleep(PAUSE)
            for name, latencies in times.items():
                p50, p99 = np.percentile(latencies, [50, 99])
                rate = float(np.median(rates[name]))
                loads.append(Load(name, count, rate, p50, p99, len(latencies)))
    return loads


def _run(factory: Factory, count: int, seconds: float) -> tuple[float, list[float]]:
    """Faces per second, and the time of each request in ms, without each client's first."""
    latencies: list[list[float]] = [[] for _ in range(count)]
    ready = threading.Barrier(count)
    spans: list[tuple[float, float]] = []

    def work(index: int) -> None:
        client = factory()
        face = np.random.default_rng(index).integers(0, 256, (1, 16, 16, 3), np.uint8)
        client(face)  # connects
        ready.wait()
        begun = now = time.perf_counter()
        while now - begun < seconds:
            client(face)
            latencies[index].append((time.perf_counter() - now) * 1e3)
            now = time.perf_counter()
        spans.append((begun, now))

    together(work, count)
    everything = [ms for one in latencies for ms in one]
    begun, ended = min(begin for begin, _ in spans), max(end for _, end in spans)
    return len(everything) / (ended - begun), everything


def table(loads: Sequence[Load], raw: str) -> str:
    """A Markdown table; throughput and latency are compared with those of the contender `raw`."""
    base = {load.clients: load for load in loads if load.contender == raw}
    lines = [
        "| clients | | faces/s | of the engine | p50 ms | more than the engine | p99 ms |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for load in loads:
        engine = base[load.clients]
        share = f"{100 * load.throughput / engine.throughput:.0f} %"
        more = f"{load.p50 - engine.p50:+.1f}"
        if load.contender == raw:
            share = more = ""
        lines.append(
            f"| {load.clients} | {load.contender} | {load.throughput:.1f} | {share} | "
            f"{load.p50:.1f} | {more} | {load.p99:.1f} |"
        )
    return "\n".join(lines)
