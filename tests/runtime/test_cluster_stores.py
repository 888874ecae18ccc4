"""Batches on Ray whose files are in an object store: a real S3 server on this machine (moto's)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from clusters import nodes, processes
from conftest import ROOT, Command, one_line_error

pytest.importorskip("ray", reason="Ray is not installed; make test-cluster installs it")
pytest.importorskip("s3fs", reason="s3fs is not installed; make test-cluster installs it")
moto_server = pytest.importorskip("moto.server", reason="make test-cluster installs moto")
pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore"),  # Ray's and botocore's own
]

PICTURES = 40
OUT = "s3://photos/restored"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """An S3 server with the bucket `photos`, as fsspec sees it; this process's environment, and
    that of all it starts, leads there.
    """
    import fsspec

    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = fsspec.filesystem("s3", use_listings_cache=False)
        store.mkdir("photos")
        yield store
    server.stop()


@pytest.fixture(scope="module")
def picture(face_file: Path) -> bytes:
    small = cv2.resize(cv2.imread(str(face_file)), (16, 16), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".png", small)[1].tobytes()


@pytest.fixture(scope="module")
def cluster(bucket: Any) -> Iterator[str]:
    with nodes() as (address, _):
        yield address


def test_a_batch_in_a_bucket_survives_its_worker(
    cluster: str, bucket: Any, picture: bytes, command: Command, tiny_engine: Path, tmp_path: Path
) -> None:
    """A damaged picture, a worker that is killed, and then the rest by --resume."""
    for number in range(PICTURES):
        bucket.pipe_file(f"photos/album/{number % 2}/{number:02}.png", picture)
    bucket.pipe_file("photos/album/damaged.png", b"no picture")
    bucket.pipe_file("photos/album/notes.txt", b"no picture either")
    line = ["s3://photos/album", "-o", OUT, "--engine", tiny_engine, "--ray", cluster]
    line += ["--landmarks", "--summary", tmp_path / "s.json"]
    call = [sys.executable, "-m", "runtime.infer", *map(str, line)]
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        until = time.monotonic() + 120
        while not bucket.find("photos/restored") and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        for worker in processes("ray::Worker")[:1]:
            os.kill(worker, signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "error: s3://photos/album/damaged.png: not a picture" in errors
    assert f"{PICTURES} restored" in errors
    names = [f"{n % 2}/{n:02}.png{end}" for n in range(PICTURES) for end in ENDINGS]
    assert sorted(bucket.find("photos/restored")) == sorted(f"photos/restored/{n}" for n in names)
    document = json.loads(bucket.cat_file("photos/restored/1/07.png.landmarks.json"))
    assert document["image"] == "s3://photos/album/1/07.png"

    bucket.rm("photos/album/damaged.png")
    bucket.rm("photos/restored/1/07.png")
    done = command("runtime.infer", *line, "--resume")
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "s.json").read_text())
    assert (counts["restored"], counts["skipped"]) == (1, PICTURES - 1)
    assert bucket.isfile("photos/restored/1/07.png")
    done = command("runtime.infer", *line, "--resume")
    assert "nothing left to do" in done.stderr


ENDINGS = ("", ".landmarks.json", ".landmarks.png")


def test_a_store_and_files_together(
    bucket: Any, picture: bytes, tiny_engine: Path, tmp_path: Path
) -> None:
    """From objects to files and from files to objects, by what a worker does; an object that is
    not there any more is an error of its own.
    """
    from runtime.cluster.stored import restore_copy
    from runtime.cluster.stores import place
    from runtime.engines.load import load_engine
    from runtime.faces.restore import Restorer
    from runtime.jobs.paths import Job
    from runtime.jobs.pictures import PictureWork

    file = tmp_path / "a.png"
    file.write_bytes(picture)
    bucket.pipe_file("photos/one/a.png", picture)
    with load_engine(tiny_engine, "cpu") as engine, Restorer(engine) as restorer:
        work = PictureWork(restorer, None, None)

        def restored(source: str, target: str) -> tuple[str, str]:
            done = restore_copy(Job(place(source), place(target), {}, True), work)
            assert (done.source, done.target) == (source, target)
            return done.status, done.message

        assert restored(str(file), "s3://photos/two/a.png")[0] == "restored"
        assert restored("s3://photos/one/a.png", str(tmp_path / "two" / "a.png"))[0] == "restored"
        status, message = restored("s3://photos/one/gone.png", str(tmp_path / "gone.png"))
        assert restored(str(file), "s3://elsewhere/a.png")[0] == "failed"
    assert (status, message) == (
        "failed",
        "error: s3://photos/one/gone.png: no such bucket, folder or object",
    )
    assert bucket.cat_file("photos/two/a.png") == (tmp_path / "two" / "a.png").read_bytes()
    assert not (tmp_path / "gone.png").exists()


@pytest.mark.parametrize(
    ("inputs", "out", "why"),
    [
        (["nope://photos/album"], OUT, "nope://photos/album: Protocol not known: nope"),
        (["gs://photos/album"], OUT, "gs://photos/album: "),
        (["s3://elsewhere/album"], OUT, "s3://elsewhere/album: no such bucket"),
        (["s3://photos/empty"], OUT, "s3://photos/empty: no such bucket, folder or object"),
        (["s3://photos/only/*.jpg"], OUT, "no pictures or videos there"),
        (["s3://photos/only"], "s3://elsewhere/out", "s3://elsewhere: "),
        (["s3://photos/only"], "memory://out", "results are written to files, or to one of"),
        (["s3://photos/only/a.png"], "s3://photos/only/a.png", "would be overwritten"),
        (["s3://photos/only", "--summary", "s3://photos/s.json"], OUT, "must be a local file"),
    ],
)
def test_wrong_calls(
    bucket: Any, picture: bytes, here: Command, inputs: list[str], out: str, why: str
) -> None:
    """Each is one line, and known before Ray is reached."""
    bucket.pipe_file("photos/only/a.png", picture)
    done = here("runtime.infer", *inputs, "-o", out, "--ray", "127.0.0.1:9")
    assert why in one_line_error(done, 2)


def test_missing_credentials(
    bucket: Any, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    done = command("runtime.infer", "s3://photos/only", "-o", OUT, "--ray", "127.0.0.1:9")
    assert "redentials" in one_line_error(done, 2)
