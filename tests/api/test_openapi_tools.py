"""The OpenAPI document in the tools that clients use: a linter, and a generator of TypeScript types.

They come from npm, into a temporary folder. If npm or its registry is not there, the tests are skipped.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.harness import Server

TOOLS = ("openapi-typescript@7", "typescript@5", "@redocly/cli@2")
TIMEOUT_S = 300

INSTALL_TIMEOUT_S = 200
"""Less than a test may take: a registry that does not answer is as one that is not there."""

README = Path(__file__).parents[2] / "README.md"

USE = """
import type { components } from "./api";
type Schemas = components["schemas"];
%s
const sent: Schemas["Batch"] = batch;
const minimal: Schemas["Batch"] = { source: "a", events: [{ type: "b", data: { any: [1, null, { c: true }] } }] };
const full: Schemas["Batch"] = {
  source: "a",
  source_id: null,
  events: [{ type: "b", data: {}, metadata: { sdk: "1.0" }, timestamp: "2026-03-01T12:00:00Z" }],
};
declare const event: Schemas["EventBody"];
const value: unknown = event.data["value"];
const receivedAt = new Date(event.received_at + "Z");
declare const problem: Schemas["ProblemBody"];
if (problem.code === "unavailable" && problem.outcome === "unknown") console.log(problem.detail);
console.log(sent, minimal, full, value, receivedAt);
"""


@pytest.fixture(scope="module")
def tools(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tools and the document."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs Debian's package npm")
    folder = tmp_path_factory.mktemp("npm")
    try:
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", *TOOLS],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not install the tools within {INSTALL_TIMEOUT_S} s")
    if done.returncode:
        pytest.skip(f"npm could not install the tools: {done.stderr[-300:]}")
    with server.client() as client:
        (folder / "openapi.json").write_bytes(client.get("/schema/openapi.json").content)
    return folder


def run(folder: Path, tool: str, *arguments: str) -> None:
    """Run a tool, which must be content."""
    done = subprocess.run(
        [folder / "node_modules/.bin" / tool, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).replace("Deprecation warning", "")


def test_the_linter_finds_nothing(tools: Path) -> None:
    run(tools, "redocly", "lint", "openapi.json")


def test_the_batch_of_the_readme_has_the_generated_type(tools: Path) -> None:
    batch = re.search(r"^const batch = \{.*?^\};$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert batch is not None
    run(tools, "openapi-typescript", "openapi.json", "-o", "api.d.ts")
    (tools / "use.ts").write_text(USE % batch[0])
    run(tools, "tsc", "--noEmit", "--strict", "--lib", "es2022,dom", "--target", "es2022", "use.ts")
