"""Generate the Python code of the schema: `python -m proto.generate`; with `--check`, fail where it is stale.

The schema's files are named from the project's root (`proto/sluice/v1/...`), so that the code imports as
`proto.sluice.v1` just as protoc wrote it. Imports grpcio-tools, which is needed for development only.
"""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent.parent
SCHEMAS = sorted((ROOT / "proto" / "sluice").rglob("*.proto"))


def generate(target: Path) -> list[Path]:
    """Write the code below `target`, and return the files."""
    includes = [ROOT / "proto", files("grpc_tools") / "_proto", Path(str(files("google.rpc").joinpath(""))).parents[1]]
    status = protoc.main(
        [
            "protoc",
            f"-Iproto={includes[0]}",
            *(f"-I{include}" for include in includes[1:]),
            *(f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")),
            *(str(schema.relative_to(ROOT)) for schema in SCHEMAS),
        ]
    )
    if status != 0:
        sys.exit(status)
    return sorted((target / "proto").rglob("*_pb2*.py*"))


def is_stale() -> bool:
    """Whether the code checked in is not what the schema gives."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory)
        fresh = {path.relative_to(target): path.read_bytes() for path in generate(target)}
    return any(not (ROOT / path).exists() or (ROOT / path).read_bytes() != text for path, text in fresh.items())


def main() -> None:
    """Generate or check."""
    if "--check" not in sys.argv[1:]:
        generate(ROOT)
    elif is_stale():
        sys.exit("the generated code is stale: run `python -m proto.generate`")


if __name__ == "__main__":
    main()
