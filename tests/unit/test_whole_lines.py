"""Lines from chunks, and those of a file that was left."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.cli.exporting import part_file
from server.cli.exporting.part_file import PartFile
from server.cli.exporting.part_file import part_file as opened
from server.cli.exporting.whole_lines import WholeLines
from server.core.errors import ConfigurationError
from server.runtime.output import OutputError

TEXTS = st.lists(st.sampled_from(["\n", "a", "\r", "\u2028", "\u0085", "\v", "\u00e9" * 5])).map("".join)


@given(TEXTS, st.lists(st.integers(1, 4)))
def test_whole_lines(text: str, sizes: list[int]) -> None:
    data, lines, found = text.encode(), WholeLines(), b""
    end = data.rfind(b"\n") + 1
    start = 0
    for size in [*sizes, len(data) + 1]:
        found += lines.feed(data[start : start + size])
        start += size
        whole = [line + b"\n" for line in data[:start].split(b"\n")[:-1] if line]
        assert found == b"".join(whole)
        assert lines.last == b"".join(whole[-1:])
    assert lines.is_between_lines == (end == len(data))


@given(TEXTS)
def test_recovered_lines(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    data = text.encode()
    target = tmp_path_factory.mktemp("part") / "file"
    with opened(target, {}) as part:
        part.write(data)
    whole = data[: data.rfind(b"\n") + 1]
    with opened(target, {}) as part:
        assert part.lines == whole.count(b"\n")
        assert part.last == (whole[whole.rfind(b"\n", 0, -1) + 1 :] if whole else b"")
        part.write(b"more\n")
        assert not target.exists()
        part.complete(target)
    assert target.read_bytes() == whole + b"more\n"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_recovered_lines_longer_than_what_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(part_file, "READ_BYTES", 3)
    for data, last in ((b"a\nbcdefghij\nk", b"bcdefghij\n"), (b"a\nb\n", b"b\n"), (b"\n\n\n", b"\n"), (b"abcdef", b"")):
        path = tmp_path / "part"
        path.write_bytes(data)
        with path.open("r+b", buffering=0) as file:
            part = PartFile(file, path)
            part.recover()
        assert part.last == last
        assert path.read_bytes() == data[: data.rfind(b"\n") + 1]


def test_two_commands_do_not_write_one_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    again = opened(target, {"source": "a"})
    first, other = opened(target, {"source": "a"}), opened(target, {"source": "b"})
    with first, other, pytest.raises(OutputError, match="another"), again:
        pass


@pytest.mark.parametrize("target", ["/dev/null", "/", "events.gz", "events.zst"])
def test_targets_that_cannot_be(target: str) -> None:
    with pytest.raises(ConfigurationError, match=target), opened(Path(target), {}):
        pass


def test_a_target_in_no_directory(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"), opened(tmp_path / "none" / "file", {}):
        pass
