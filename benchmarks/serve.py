"""`python -m benchmarks.serve`: the server under load, over time, and under mutated requests."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from pydantic import TypeAdapter

from benchmarks.measure.machine import Machine, machine
from benchmarks.serving import clients
from benchmarks.serving.clients import Factory
from benchmarks.serving.fuzz import Fuzz, fuzz
from benchmarks.serving.load import Load, measure, table
from benchmarks.serving.local import LocalServer
from benchmarks.serving.soak import Soak, soak
from dic.console import Parser, run
from dic.engine_file import EngineError, engine_files
from dic.files import write_whole
from dic.outputs import check_outputs
from runtime.engines.contract import SHIPPED
from runtime.engines.load import load_engine

RAW = "engine, no server"
DONE, FAULTY = 0, 1
PARTS = ("load", "soak", "fuzz")


@dataclass
class ServingResults:
    """What was measured; parts that were not are None.

    Attributes:
        machine: and the command.
        engine: file name.
        loads: a row per number of clients and contender.
    """

    machine: Machine
    engine: str
    loads: list[Load] | None = None
    soak: Soak | None = None
    fuzz: Fuzz | None = None


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    check_outputs(filter(None, [options.json]), engine_files(options.engine))
    results = ServingResults(machine("benchmarks.serve"), options.engine.name)
    try:
        faults = [getattr(_Parts, part)(options, results) for part in options.what]
    finally:
        if options.json:
            form = TypeAdapter(ServingResults)
            write_whole(options.json, form.dump_json(results, indent=1) + b"\n")
    return FAULTY if any(faults) else DONE


def summary(content: bytes) -> str:
    """A results file of this command as Markdown."""
    found = TypeAdapter(ServingResults).validate_json(content)
    machine = found.machine
    parts = [table(found.loads, RAW)] if found.loads else []
    if found.soak:
        parts.append(f"Soak: {_soaked(found.soak)}.")
    if found.fuzz:
        parts.append(f"Fuzz: {_fuzzed(found.fuzz)}.")
    source = f"{machine.processor}, {machine.cores} cores, {machine.date}: `{machine.command}`"
    return "\n\n".join([*parts, source])


def _soaked(soak: Soak) -> str:
    before, after, most = soak.memory
    growth = ""
    if soak.growth is not None:
        growth = f", {soak.growth:+.2f} per 1,000 requests in the second half"
    return (
        f"{soak.seconds / 60:g} minutes, {soak.answered} requests answered, {soak.refused} refused "
        f"by a full queue, {soak.lost} lost, {soak.wrong} wrong, beside "
        f"{soak.misbehaved.total()} of misbehaving clients; memory {before:.0f} MiB, at the end "
        f"{after:.0f}, at most {most:.0f}{growth}; threads {soak.threads[0]}, at the end "
        f"{soak.threads[1]}; {soak.tracebacks} tracebacks; exit status {soak.status}"
    )


def _fuzzed(fuzz: Fuzz) -> str:
    answers = ", ".join(f"{count} × {status}" for status, count in fuzz.statuses.most_common())
    return (
        f"{fuzz.requests} mutated requests (seed {fuzz.seed}), {len(fuzz.faults)} faults, "
        f"{fuzz.tracebacks} tracebacks; {answers}"
    )


class _Parts:
    """The parts of the command; each returns whether the server was faulty."""

    @staticmethod
    def load(options: argparse.Namespace, results: ServingResults) -> bool:
        with ExitStack() as stack:
            engine = stack.enter_context(load_engine(options.engine, options.device))
            server = stack.enter_context(LocalServer(options.engine))
            contenders: dict[str, Factory] = {
                RAW: clients.in_process(engine),
                "this server, HTTP": partial(clients.http, server.http),
                "this server, gRPC": partial(clients.grpc, server.grpc),
            }
            for protocol, make in (("http", clients.http), ("grpc", clients.grpc)):
                for name, address in getattr(options, protocol):
                    contenders[name] = partial(make, address)
            results.loads = measure(contenders, options.clients, options.seconds, options.rounds)
        print(f"\n{table(results.loads, RAW)}")
        return False

    @staticmethod
    def soak(options: argparse.Namespace, results: ServingResults) -> bool:
        with (
            load_engine(options.engine, "cpu") as engine,
            LocalServer(options.engine) as server,
        ):
            expected = clients.in_process(engine)()
            found = results.soak = soak(server, expected, 60 * options.minutes)
        print(f"\nsoak: {_soaked(found)}")
        for error in found.errors:
            print(f"  {error}")
        return bool(found.lost or found.wrong or found.tracebacks or found.status)

    @staticmethod
    def fuzz(options: argparse.Namespace, results: ServingResults) -> bool:
        with LocalServer(options.engine) as server:
            found = results.fuzz = fuzz(server, options.requests, options.seed)
        print(f"\nfuzz: {_fuzzed(found)}; alive: {found.alive}")
        for fault in found.faults:
            print(f"  {fault}")
        return bool(found.faults or found.tracebacks or not found.alive)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.serve",
        description="Measure the server beside its engine and other servers (load), run it at "
        "saturation among clients that misbehave (soak), and send it mutated requests (fuzz).",
    )
    add = parser.add_argument
    add("what", nargs="+", choices=PARTS, metavar="WHAT", help=", ".join(PARTS))
    add("--engine", type=Path, default=SHIPPED, metavar="FILE", help="(default: the shipped one)")
    add("--device", default="auto", help="of the engine without a server (default: auto)")
    add("--json", type=Path, metavar="FILE", help="write the results")
    for protocol in ("http", "grpc"):
        add(
            f"--{protocol}",
            action="append",
            default=[],
            type=_named,
            metavar="NAME=HOST:PORT",
            help=f"load: another server's {protocol} address; may be repeated",
        )
    add("--clients", nargs="+", type=int, default=[1, 4, 16, 64], metavar="N", help="load")
    add("--seconds", type=float, default=10.0, help="load: of a measurement (default: 10)")
    add("--rounds", type=int, default=3, help="load (default: 3)")
    add("--minutes", type=float, default=30.0, help="soak (default: 30)")
    add("--requests", type=int, default=10_000, metavar="N", help="fuzz (default: 10000)")
    add("--seed", type=int, default=0, help="fuzz (default: 0)")
    options = parser.parse_args(arguments)
    for name in ("seconds", "rounds", "minutes", "requests"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} must be more than 0")
    if min(options.clients) < 1:
        parser.error("--clients must be 1 or more")
    return options


def _named(text: str) -> tuple[str, str]:
    name, equals, address = text.rpartition("=")
    host, _, port = address.rpartition(":")
    if not (equals and name and host and port.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=HOST:PORT")
    return name, address


def cli() -> NoReturn:
    run(main, "benchmarks,serve", EngineError)


if __name__ == "__main__":
    cli()
