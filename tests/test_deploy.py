"""The examples in docs/deploy: they parse, and name what the server and the package have."""

from __future__ import annotations

import functools
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from starlette.routing import Route

from runtime.serve import _parse
from runtime.server.calls import Limits
from runtime.server.http import OPEN, application
from runtime.server.options import GRACE, KEY_VARIABLE
from runtime.server.prometheus import LABELS, exposition
from runtime.server.service import Service

DEPLOY = ROOT / "docs" / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
YAML = sorted([*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")])
SERVER = _parse([])
PORTS = {"http": SERVER.port, "grpc": SERVER.grpc_port, "metrics": SERVER.metrics_port}


@functools.cache
def documents(path: Path) -> list[Any]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all(path.read_text()))


def found(value: object, key: str) -> list[Any]:
    """All values of a key, at any depth."""
    if isinstance(value, list):
        return [hit for item in value for hit in found(item, key)]
    if isinstance(value, dict):
        here = [value[key]] if key in value else []
        return here + [hit for item in value.values() for hit in found(item, key)]
    return []


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_parses_and_commands_are_the_servers(path: Path) -> None:
    assert all(isinstance(document, dict) for document in documents(path))
    for command in found(documents(path), "command"):
        assert command[0] == "dic-serve"
        options = _parse(command[1:])
        assert options.host == "0.0.0.0"
        assert options.api_key_file
        assert not options.insecure


def test_probes_and_ports_are_the_servers() -> None:
    app = application(Service([]), Limits(1, 1, 1), None)
    routes = {route.path for route in app.routes if isinstance(route, Route)}
    everything = [document for path in YAML for document in documents(path)]
    probed = [probe["path"] for probe in found(everything, "httpGet")]
    assert set(probed) == {"/v2/health/ready", "/v2/health/live"}
    assert set(probed) <= routes & set(OPEN)
    server = documents(DEPLOY / "kubernetes" / "server.yaml")
    deployment, service = server[0], server[1]
    named = {p["name"]: p["containerPort"] for p in found(deployment, "ports")[0]}
    assert named == PORTS
    assert {p["targetPort"]: p["port"] for p in service["spec"]["ports"]} == PORTS
    kserve = documents(DEPLOY / "kubernetes" / "kserve.yaml")
    assert {get["port"] for get in found(kserve, "httpGet")} == {SERVER.port}
    compose = documents(DEPLOY / "compose.yaml")[0]["services"]["server"]
    assert [int(port.rpartition(":")[2]) for port in compose["ports"]] == [8000, 8001]
    assert found(documents(DEPLOY / "prometheus.yml"), "port") == [SERVER.metrics_port]
    graces = found([*server, *kserve], "terminationGracePeriodSeconds")
    graces.append(int(compose["stop_grace_period"].removesuffix("s")))
    assert len(graces) == 3
    assert min(graces) >= GRACE + 10


def test_the_secret_and_its_users_agree() -> None:
    (secret,) = documents(DEPLOY / "kubernetes" / "secret.yaml")
    assert secret["stringData"] == {"key": ""}, "no key belongs in this repository"
    users = [path for path in YAML if path.parent.name == "kubernetes"]
    names = {name for path in users for name in found(documents(path), "secretName")}
    assert names == {secret["metadata"]["name"]}
    compose = documents(DEPLOY / "compose.yaml")[0]
    assert set(compose["secrets"]) == {"dic_api_key", "grafana_password"}
    for given in compose["services"].values():
        assert given["read_only"]
        assert given["cap_drop"] == ["ALL"]


def test_the_board_asks_for_metrics_that_the_server_has() -> None:
    known = set(re.findall(r"^# TYPE (\S+)", exposition(Service([])).decode(), re.MULTILINE))
    board = json.loads((DEPLOY / "grafana" / "dic.json").read_text())
    queries = [query["expr"] for query in found(board, "targets") for query in query]
    queries += found(board, "query")
    asked = {name for query in queries for name in re.findall(r"\bnv_\w+", query)}
    assert asked == known
    labels = {
        n for query in queries for by in re.findall(r"by \((.*?)\)", query) for n in by.split(", ")
    }
    assert labels == {*LABELS, "reason"}
    (sources,) = documents(DEPLOY / "grafana" / "sources.yaml")
    assert {s["uid"] for s in found(board, "datasource")} == set(found(sources, "uid"))


def test_the_images_are_made_of_what_the_package_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = set(project["project"]["optional-dependencies"])
    used = [name for names in re.findall(r"\)\[(.*?)\]\"", DOCKERFILE) for name in names.split(",")]
    assert set(used) == {"cpu", "gpu", "serve"}
    assert set(used) <= extras
    assert "dic-serve" in project["project"]["scripts"]
    copied = {
        name
        for line in re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE, re.M)
        for name in line.split()
    }
    assert all((ROOT / name).exists() for name in copied)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text()
    assert set(re.findall(r"^!(.*)$", ignored, re.M)) == copied
    packages = {
        name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert packages <= copied
    assert {"EXPOSE 8000 8001 8002"} == set(re.findall(r"^EXPOSE.*$", DOCKERFILE, re.M))
    assert list(PORTS.values()) == [8000, 8001, 8002]
    assert KEY_VARIABLE in DOCKERFILE
    stages = set(re.findall(r" AS (\S+)$", DOCKERFILE, re.M))
    images = {image for path in YAML for image in found(documents(path), "image")}
    ours = {image.partition(":")[2] for image in images if image.startswith("dic-toolkit:")}
    assert ours == {"cpu", "ray"}
    assert ours <= stages


def test_triton_and_ray_are_started_as_their_pages_say() -> None:
    (triton,) = documents(DEPLOY / "kubernetes" / "kserve-triton.yaml")
    (argument,) = found(triton, "args")[0]
    assert argument in (ROOT / "export" / "triton.py").read_text()
    (ray,) = documents(DEPLOY / "kubernetes" / "rayservice.yaml")
    assert f"ARG RAY={ray['spec']['rayClusterConfig']['rayVersion']}\n" in DOCKERFILE
