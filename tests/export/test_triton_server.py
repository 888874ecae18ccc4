"""What a real Triton makes of our Python backend's errors; `tests/test_clients.py` has the rest."""

from __future__ import annotations

import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton_http
from servers import Server, need_triton, python_repository, tritonserver
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.xdist_group("triton")


@pytest.fixture(scope="module")
def server(
    tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Path]]:
    """Models that Triton cannot load, and one that gets requests that its engine refuses."""
    need_triton()
    models = tmp_path_factory.mktemp("models")
    for name in ("loose", "broken"):
        python_repository(tiny_engine, models, "--name", name, "--no-cache")
    config = models / "loose" / "config.pbtxt"
    text = config.read_text().split("model_warmup")[0]  # what follows are warm-ups and the backend
    text = text.replace("dims: 16\n", "dims: -1\n", 1)
    config.write_text(f'{text}backend: "python"\n')
    (models / "broken" / "1" / "model.onnx").write_bytes(tiny_engine.read_bytes()[:20000])
    bare = _bare_environment(tmp_path_factory.mktemp("bare"))
    python_repository(tiny_engine, models, "--name", "bare", "--environment", str(bare))
    options = ("--exit-on-error=false", "--strict-readiness=false")
    with tritonserver(models, *options) as started:
        yield started


def _bare_environment(folder: Path) -> Path:
    """An environment with NumPy, which Triton itself needs, and without dic-toolkit."""
    venv.create(folder, symlinks=True)
    with (folder / "bin" / "activate").open("a") as script:
        script.write(f"\ncd {folder}\n")  # Python looks in the working folder as well
    packages = Path(sysconfig.get_path("platlib", vars={"base": folder, "platbase": folder}))
    for package in Path(sysconfig.get_path("platlib")).glob("numpy*"):
        (packages / package.name).symlink_to(package)
    return folder


def test_the_engines_errors_answer_their_request(server: tuple[Server, Path]) -> None:
    client = triton_http.InferenceServerClient(server[0].http)
    for size, why in ((8, "the engine expects image uint8"), (16, "")):
        face = triton_http.InferInput("image", [1, size, 16, 3], "UINT8")
        face.set_data_from_numpy(np.zeros((1, size, 16, 3), np.uint8))
        if why:
            with pytest.raises(InferenceServerException, match=why) as refused:
                client.infer("loose", [face])
            assert refused.value.status() == "400"
        else:
            assert client.infer("loose", [face]).as_numpy("face").shape == (1, 128, 128, 3)
    client.close()


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("broken", "damaged or truncated one; export it again"),
        ("bare", "cannot import dic-toolkit"),
    ],
)
def test_what_prevents_loading_is_one_line(
    server: tuple[Server, Path], model: str, why: str
) -> None:
    started, log = server
    client = triton_http.InferenceServerClient(started.http)
    assert not client.is_model_ready(model)
    (entry,) = [m for m in client.get_model_repository_index() if m["name"] == model]
    assert why in entry["reason"].splitlines()[0]
    client.close()
    lines = [line for line in log.read_text().splitlines() if f"failed to load '{model}'" in line]
    assert why in lines[0]
