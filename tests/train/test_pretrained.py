"""The released weights, fetched from a server of this machine that behaves as servers do."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from train import pretrained
from train.pretrained import FetchError, Released, checkpoint_path, fetch, main

NAME = "dic-celebahq"
CONTENT = (Path(__file__).parents[1] / "data" / "dic_small_original.pth").read_bytes()
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server sends, and what it was asked for."""

    url: str = ""
    content: bytes = CONTENT
    cuts: list[int] = field(default_factory=list)  # of each answer: after so many bytes
    status: int = 0
    pause: float = 0.0
    ranges: bool = True
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            site.asked.append(wanted)
            if site.status:
                self.send_error(site.status)
                return
            start = int(wanted[6:-1]) if wanted and site.ranges else 0
            if start > len(site.content):
                self.send_error(416)
                return
            self.send_response(206 if wanted and site.ranges else 200)
            left = site.content[start:]
            self.send_header("Content-Length", str(len(left)))
            self.end_headers()
            for at in range(0, len(left), 4096):
                if site.cuts and at >= site.cuts[0]:
                    break
                try:
                    self.wfile.write(left[at : at + 4096])
                except OSError:  # the client is gone
                    return
                time.sleep(site.pause)
            if site.cuts:
                site.cuts.pop(0)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}/dic-{DIGEST[:8]}.pth"
    monkeypatch.setenv("DIC_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DIC_OFFLINE", raising=False)
    monkeypatch.setattr(pretrained, "PAUSE", 0.01)
    monkeypatch.setitem(pretrained.RELEASED, NAME, Released(site.url, DIGEST[:8], "for tests"))
    yield site
    site.pause = 0
    server.shutdown()
    server.server_close()


@pytest.fixture
def kept(site: Site, tmp_path: Path) -> Path:
    """Where the file belongs."""
    return tmp_path / "home" / site.url.rpartition("/")[2]


def test_weights_are_fetched_once(site: Site, kept: Path) -> None:
    assert [fetch(NAME), fetch(NAME)] == [kept, kept]
    assert kept.read_bytes() == CONTENT
    assert site.asked == [""]
    assert [path.suffix for path in kept.parent.iterdir() if path != kept] in ([], [".lock"])


def test_what_breaks_off_is_gone_on_with(site: Site, kept: Path) -> None:
    site.cuts = [8192, 4096]
    assert fetch(NAME).read_bytes() == CONTENT
    assert site.asked == ["", "bytes=8192-", "bytes=12288-"]


def test_the_next_call_goes_on_too(site: Site, kept: Path) -> None:
    site.cuts = [4096] * pretrained.ATTEMPTS
    with pytest.raises(FetchError, match="cut off after 16384 bytes, which are kept"):
        fetch(NAME)
    assert not kept.exists()
    assert fetch(NAME).read_bytes() == CONTENT
    assert site.asked[-1] == "bytes=16384-"


def test_a_server_without_ranges_starts_anew(site: Site, kept: Path) -> None:
    site.cuts, site.ranges = [8192], False
    assert fetch(NAME).read_bytes() == CONTENT


def test_a_stale_beginning_is_thrown_away(site: Site, kept: Path) -> None:
    kept.parent.mkdir()
    for stale in (bytes(9000), bytes(len(CONTENT) + 5)):  # of another file, and longer than it
        kept.with_name(f"{kept.name}.part").write_bytes(stale)
        assert fetch(NAME).read_bytes() == CONTENT
        kept.unlink()


def test_other_content_is_refused(site: Site, kept: Path) -> None:
    site.content = b"<html>Please log in to this network</html>"
    with pytest.raises(FetchError, match="does not begin with") as caught:
        fetch(NAME)
    for part in (site.url, DIGEST[:8], str(kept)):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not kept.exists()


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (503, pretrained.ATTEMPTS)])
def test_a_refusal_is_named(site: Site, status: int, asked: int) -> None:
    site.status = status
    with pytest.raises(FetchError, match=f"{status}"):
        fetch(NAME)
    assert len(site.asked) == asked


def test_no_network(site: Site, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:9/dic.pth"
    monkeypatch.setitem(pretrained.RELEASED, NAME, Released(nobody, DIGEST[:8], ""))
    with pytest.raises(FetchError, match="refused"):
        fetch(NAME)


def test_a_server_that_falls_silent(
    site: Site, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.pause = 5
    monkeypatch.setattr(pretrained, "TIMEOUT", 0.2)
    with pytest.raises(FetchError, match="timed out"):
        fetch(NAME)


def test_offline(site: Site, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIC_OFFLINE", "1")
    with pytest.raises(FetchError, match="DIC_OFFLINE is set"):
        fetch(NAME)
    kept.parent.mkdir()
    kept.write_bytes(CONTENT)  # by hand
    assert fetch(NAME) == kept
    assert site.asked == []


def test_a_wrong_file_put_there_is_named(site: Site, kept: Path) -> None:
    kept.parent.mkdir()
    kept.write_bytes(b"something else")
    with pytest.raises(FetchError, match="not the released file"):
        fetch(NAME)
    assert kept.read_bytes() == b"something else"


def test_a_folder_that_cannot_be(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DIC_HOME", str(tmp_path / "file"))
    with pytest.raises(FetchError, match="DIC_HOME names another folder"):
        fetch(NAME)


COMMAND = """
import sys
from train import pretrained
pretrained.RELEASED["dic-celebahq"] = pretrained.Released(sys.argv[1], sys.argv[2], "")
"""


def test_two_processes_fetch_it_once(site: Site, kept: Path) -> None:
    site.pause = 0.02
    run = f"{COMMAND}print(pretrained.fetch('dic-celebahq'))"
    call = [sys.executable, "-c", run, site.url, DIGEST[:8]]
    both = [
        subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60) for process in both]
    assert [out.strip() for out, _ in said] == [str(kept)] * 2
    assert site.asked == [""]
    assert any("another process fetches it" in err for _, err in said)


def test_the_export_takes_the_name(site: Site, kept: Path, tmp_path: Path) -> None:
    run = f"{COMMAND}from export.onnx import main; sys.exit(main(sys.argv[3:]))"
    out = tmp_path / "dic.onnx"
    call = [sys.executable, "-c", run, site.url, DIGEST[:8], NAME, "-o", str(out), "--steps", "2"]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert out.is_file()


def test_a_file_of_that_name_comes_first(site: Site, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(CONTENT)
    assert checkpoint_path(path) == path
    assert checkpoint_path("other.pth") == Path("other.pth")


def test_they_are_listed(site: Site, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    listed = capsys.readouterr().out
    assert "dicgan-celebahq" in listed
    assert f"not fetched yet, {site.url}" in listed
    main([NAME])
    assert capsys.readouterr().out.strip() == str(kept)
    main([])
    assert str(kept) in capsys.readouterr().out
