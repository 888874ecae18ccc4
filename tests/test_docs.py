"""README and docs: what they show runs, what they link is there, what is made is up to date."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, ROOT
from PIL import Image

from benchmarks import docs
from dic.console import UserError

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    photo_file: Path,
    face_file: Path,
    tiny_engine: Path,
    faces: tuple[np.ndarray, np.ndarray],
) -> Path:
    """What the examples' names stand for."""
    place = tmp_path_factory.mktemp("docs")
    (place / "album").mkdir()
    (place / "photos").mkdir()
    shutil.copy(photo_file, place / "album" / "one.png")
    shutil.copy(face_file, place / "face.png")
    Image.open(photo_file).convert("RGB").save(place / "family.jpg", quality=95)
    shutil.copy(DATA / "dic_small_mmediting.pth", place / "ckpt.pth")
    shutil.copy(tiny_engine, place / "dic.onnx")
    marks = {}
    for i in range(3):
        Image.fromarray(faces[0][i]).save(place / "photos" / f"{i}.png")
        marks[f"{i}.png"] = faces[1][i].tolist()
    (place / "landmarks.json").write_text(json.dumps(marks))
    _clip(place / "clip.mp4", photo_file)
    return place


@pytest.fixture(scope="module")
def ran() -> list[list[str]]:
    """The examples that ran already."""
    return []


def _clip(path: Path, photo: Path) -> None:
    import av

    picture = np.asarray(Image.open(photo).convert("RGB"))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize("name", [n for n, p in zip(NAMES, PAGES, strict=True) if blocks(p, "sh")])
def test_shell_examples_run(name: str, folder: Path, ran: list[list[str]]) -> None:
    for block in blocks(ROOT / name, "sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words in ran:  # by another page
                continue
            assert words[:2] == ["python", "-m"], f"{line}: examples that cannot run are console"
            done = subprocess.run(
                [sys.executable, *words[1:]],
                cwd=folder,
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                timeout=300,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            ran.append(words)


@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize(
    "name", [n for n, p in zip(NAMES, PAGES, strict=True) if blocks(p, "python")]
)
def test_python_examples_run(name: str, folder: Path) -> None:
    """All of a page, one after the other, as a reader types them."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks(ROOT / name, "python"))],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        place = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert place.exists(), f"{name}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", place.read_text(), re.MULTILINE)
            known = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in known, f"{name}: {target}"


def test_made_pages_are_up_to_date() -> None:
    for path, text in docs.pages().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)}: run make docs"
    with pytest.raises(UserError, match="no table 'speed'"):
        docs.filled("<!-- results: x speed -->\n<!-- end -->")


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
