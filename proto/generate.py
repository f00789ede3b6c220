"""Generate the Python code of the schema: `python proto/generate.py`; with `--check`, fail if it is stale.

The code imports as `sluice.v1`, which is the path that protoc gives it. grpcio-tools is needed for development only.
This is a script and no module `proto.generate`, because proto-plus installs a package that is called `proto`.
"""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTO = Path(__file__).parent
SCHEMAS = sorted((PROTO / "sluice").rglob("*.proto"))


def generate(target: Path) -> list[Path]:
    """Write the code below `target`, and return the files."""
    includes = [PROTO, files("grpc_tools") / "_proto", Path(str(files("google.rpc").joinpath(""))).parents[1]]
    status = protoc.main(
        [
            "protoc",
            *(f"-I{include}" for include in includes),
            *(f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")),
            *(str(schema.relative_to(PROTO)) for schema in SCHEMAS),
        ]
    )
    if status != 0:
        sys.exit(status)
    return sorted((target / "sluice").rglob("*_pb2*.py*"))


def is_stale() -> bool:
    """Whether the code that is checked in differs from what the schema gives."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory)
        fresh = {path.relative_to(target): path.read_bytes() for path in generate(target)}
    return any(not (PROTO / path).exists() or (PROTO / path).read_bytes() != text for path, text in fresh.items())


def main() -> None:
    """Generate or check."""
    if "--check" not in sys.argv[1:]:
        generate(PROTO)
    elif is_stale():
        sys.exit("the generated code is stale: run `python proto/generate.py`")


if __name__ == "__main__":
    main()
