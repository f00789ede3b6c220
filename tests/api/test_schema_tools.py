"""The schema in other tools than Python's: Node's gRPC, protoc and buf. Each test is skipped if its tool is missing."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.support.harness import Json, Server

PROTO = Path(__file__).parents[2] / "proto"
SCHEMA = "sluice/v1/event_service.proto"
CLIENT = Path(__file__).parents[1] / "support" / "client.cjs"
WELL_KNOWN = Path("/usr/include/google/protobuf/struct.proto")
TIMEOUT_S = 60


def run(*command: str, **env: str) -> str:
    """What a command prints. Fails if the command does."""
    done = subprocess.run(
        command, cwd=PROTO, env={**os.environ, **env}, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


@cache
def node_modules() -> str:
    """Where Node finds globally installed packages."""
    return "" if shutil.which("npm") is None else run("npm", "root", "--global").strip()


def has_package(name: str) -> bool:
    """Whether a package of npm is installed globally."""
    return node_modules() != "" and (Path(node_modules()) / name).exists()


needs_node = pytest.mark.skipif(
    not (has_package("@grpc/grpc-js") and has_package("@grpc/proto-loader")),
    reason="needs `npm install --global @grpc/grpc-js @grpc/proto-loader`",
)
needs_buf = pytest.mark.skipif(not has_package("@bufbuild/buf"), reason="needs `npm install --global @bufbuild/buf`")
needs_protoc = pytest.mark.skipif(
    shutil.which("protoc") is None or not WELL_KNOWN.exists(),
    reason="needs Debian's packages protobuf-compiler and libprotobuf-dev",
)


@needs_node
def test_node(server: Server, key: Json) -> None:
    printed = run("node", str(CLIENT), str(PROTO), server.grpc, key["key"], NODE_PATH=node_modules())
    assert json.loads(printed) == {
        "received": 1,
        "outcomes": [["1", "receipt"], ["2", "error"], ["3", "receipt"]],
    }


@needs_protoc
@pytest.mark.parametrize("language", ["java", "cpp", "csharp", "ruby", "objc", "php"])
def test_protoc(tmp_path: Path, language: str) -> None:
    run("protoc", "-I.", "-Ithird_party", f"--{language}_out={tmp_path}", SCHEMA)
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert made
    if language == "java":
        assert {"sluice/v1/EventBatch.java", "sluice/v1/EventServiceProto.java"} <= made


@needs_buf
def test_buf() -> None:
    buf = str(Path(node_modules()) / "@bufbuild/buf/bin/buf")
    run(buf, "lint")
    run(buf, "build", "-o", os.devnull)
