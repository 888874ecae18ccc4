"""The short form of `python -m benchmarks.matrix`: every cell, and some through the command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("imagecodecs")
pytest.importorskip("pillow_heif")

from benchmarks import matrix
from benchmarks.formats.cell import Cell, Result, counts
from benchmarks.formats.pictures import command, judge, outputs
from benchmarks.formats.pictures.sample import Sample, Wanted, content, quantised
from runtime.pictures.files import decode_picture
from runtime.pictures.header import ImageError

NAMES = [made.__module__.rpartition(".")[2] for made in judge.FORMATS]


@pytest.mark.parametrize("made", judge.FORMATS, ids=NAMES)
def test_pictures_are_read_right_or_refused_by_name(made: Callable[[], Iterator[Sample]]) -> None:
    """Every seventh that is read is also written, and read by other decoders."""
    for number, sample in enumerate(made()):
        cell = judge.judged(sample, () if number % 7 else outputs.SUFFIXES)
        assert cell.result is not Result.WRONG, cell
        assert (cell.result is Result.RIGHT) == isinstance(sample.wanted, Wanted), cell


def test_the_command_says_the_same(tiny_engine: Path) -> None:
    made = list(judge.samples())[::120]
    told = command.outcomes([one.data for one in made], ["--engine", str(tiny_engine)])
    for sample, outcome in zip(made, told, strict=True):
        assert not outcome.contradicts(judge.judged(sample)), sample.layout


def test_a_file_that_is_refused_alone_is_exit_status_2(tiny_engine: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.psd"
    file.write_bytes(b"8BPS\0\1" + bytes(100))
    line = [sys.executable, "-m", "runtime.infer", "--engine", str(tiny_engine), "--faces"]
    done = subprocess.run([*line, str(file), "-o", str(tmp_path / "b.png")], capture_output=True)
    assert done.returncode == 2
    said = "Photoshop (PSD) pictures cannot be read; convert it to JPEG or PNG first"
    assert done.stderr.decode().splitlines()[-1] == f"error: {file}: {said}"
    assert not (tmp_path / "b.png").exists()


def test_faults_are_seen(capfd: pytest.CaptureFixture[str]) -> None:
    """Planted: other pixels, other depth, a refusal that is none, and one that is."""
    stored = quantised(content(3), 8)
    from benchmarks.formats.pictures.png import png

    data = png(stored, 8, 2)
    right = stored / 255
    found = {
        "": Wanted(right),
        "differ by up to": Wanted(1 - right),
        "8 bits, not 16": Wanted(right, 16),
        "shape": Wanted(right[1:]),
        "a profile of 0 bytes": Wanted(right, profile=b"a"),
        "resolution None": Wanted(right, resolution=(72, 72)),
        "read, and not refused": "damaged",
    }
    for reason, wanted in found.items():
        cell = judge.judged(Sample("PNG", "", data, wanted))
        assert (cell.result is Result.RIGHT) == (reason == ""), cell
        assert reason in cell.detail
    cell = judge.judged(Sample("PNG", "", data[:99], Wanted(right)))
    assert (cell.result, cell.detail[:8]) == (Result.WRONG, "refused:")
    assert judge.judged(Sample("PNG", "", data[:99], "no such reason")).result is Result.WRONG
    assert capfd.readouterr().err == ""


def test_heic_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    with pytest.raises(ImageError, match=r"^a: HEIC pictures need the package pillow-heif \(extra"):
        decode_picture("a", data)


def test_results_of_other_kinds_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def of(result: Result) -> Callable[[], Iterator[Cell]]:
        return lambda: iter([Cell({"format": "A"}, result, "why"), Cell({"format": "B"}, result)])

    kinds = {"one": matrix.Kind(of(Result.RIGHT), ()), "two": matrix.Kind(of(Result.WRONG), ())}
    monkeypatch.setattr(matrix, "KINDS", kinds)
    file = tmp_path / "matrix.json"
    assert matrix.main(["one", "--json", str(file)]) == 0
    assert matrix.main(["two", "--json", str(file)]) == 1
    content = json.loads(file.read_bytes())
    assert list(content["kinds"]) == ["one", "two"]
    assert "| two  |     2 |     0 |               0 |     2 |" in matrix.summary(content)
    assert "two: A: why" in capsys.readouterr().err
    shown = counts({"A": [Cell({}, Result.REFUSED)]}, "format")
    assert shown.splitlines()[-1].split() == ["|", "A", "|", "1", "|", "0", "|", "1", "|", "0", "|"]
