"""Mutated files: the short form of `python -m benchmarks.fuzz`, and what it found."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import signal
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image, UnidentifiedImageError

from benchmarks.fuzzing import workers
from benchmarks.fuzzing.kinds import KINDS, kinds
from benchmarks.fuzzing.workers import SPAWN, Work, answered, received, sample
from dic.console import UserError
from dic.engine_file import sidecar
from export.engine_file import read_engine_file
from export.inspect import inspect
from runtime.jobs.boxes import Boxes
from runtime.pictures.files import decode_picture
from train.data.annotations import AnnotationError, read_annotations
from train.recipe import load_recipe

INPUTS = dict.fromkeys(KINDS, 60) | {"engines": 8, "checkpoints": 8}


@pytest.mark.parametrize("name", KINDS)
def test_mutated_files_are_read_or_refused_by_name(
    name: str, tiny_engine: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """In this process, for speed; a crash of it is seen too."""
    kind = kinds(tiny_engine, tiny_checkpoint)[name]
    samples = kind.samples()
    assert {answered(kind, tmp_path, *one) for one in samples} == {"read"}
    for number in range(INPUTS[name]):
        answer = answered(kind, tmp_path, *sample(kind, samples, name, 1, number))
        assert not answer.startswith("!"), f"{name} {number}: {answer}"


def test_a_worker_that_crashes_is_a_finding() -> None:
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=os.abort)
    process.start()
    sender.close()
    assert received(receiver, process, 60) == "! the process ended (SIGABRT)"


def test_a_worker_that_hangs_is_a_finding_and_killed() -> None:
    receiver, _sender = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=signal.pause)
    process.start()
    assert received(receiver, process, 0) == "! took longer than 0 s"
    assert process.exitcode == -signal.SIGKILL


def crash_at_second(work: Work, numbers: Iterable[int], answers: Connection) -> None:
    """A worker."""
    answers.send("ready")
    for number in numbers:
        answers.send("made")
        if number == 1:
            os.abort()
        answers.send("read")


def test_after_a_crash_the_next_worker_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_worker", crash_at_second)
    noted: list[tuple[int, str]] = []
    work = Work("boxes", tmp_path, tmp_path, 0)
    workers._supervise(work, range(4), lambda *one: noted.append(one), math.inf)
    ended = "! the process ended (SIGABRT)"
    assert noted == [(0, "read"), (1, ended), (2, "read"), (3, "read")]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("boxes.json", "[" * 100_000, "not valid JSON .nested too deeply"),
        ("boxes.json", '{"a.png": [[1, 2, 3, ' + "9" * 400 + "]]}", "must all be numbers"),
        ("boxes.csv", "a.png," + "1" * 140_000, "not valid CSV"),
        ("a.toml", "a = " + "[" * 100_000, "not a TOML file: nested too deeply"),
        ("a.toml", "iterations = " + "9" * 5000, "not a TOML file"),
    ],
    ids=["deep JSON", "large integer", "wide CSV", "deep TOML", "long integer"],
)
def test_documents_that_parsers_do_not_take(
    name: str, content: str, why: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=why):
        load_recipe(str(path)) if name == "a.toml" else Boxes(path)


def test_damaged_engines_are_described_as_such(tiny_engine: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    data = tiny_engine.read_bytes()
    path.write_bytes(data.replace(b"dic.precision", b"dic.\xffrecision"))
    with pytest.raises(UserError, match="damaged"):
        read_engine_file(path)
    model = onnx.load(tiny_engine)
    del next(node for node in model.graph.node if node.op_type == "Conv").input[1:]
    onnx.save(model, path)
    with pytest.raises(UserError, match="damaged"):
        inspect(path)


def test_damaged_sidecars_are_described_as_such(tmp_path: Path) -> None:
    plan = tmp_path / "a.trt"
    plan.write_bytes(b"ptrt")
    entries = {"plan": {"sha256": hashlib.sha256(b"ptrt").hexdigest()}, "samples": 1}
    sidecar(plan).write_text(json.dumps(entries | {"inputs": [], "outputs": []}))
    with pytest.raises(UserError, match="is damaged"):
        inspect(plan)


def test_jpegs_that_pillow_refuses_are_read_without_their_tables() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "jpeg")
    data = file.getvalue()
    cut = data[:2] + b"\xff\xee\x00\x07Adobe" + data[2:]  # a segment without what it is for
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(cut))
    assert np.array_equal(decode_picture("a.jpg", cut).pixels, decode_picture("", data).pixels)


def test_reasons_of_damaged_pickles_are_one_line() -> None:
    with pytest.raises(AnnotationError) as refusal:
        read_annotations("a.pkl", b"\x80\x02Pa\n.")
    assert "persistent" in str(refusal.value)
    assert "\n" not in str(refusal.value)
