"""Messages of workers to their supervisor: lines of JSON."""

import asyncio

import pytest

from server.runtime.messages import MAX_LINE_BYTES, Ready, decode_line, encode_line, read_line


def test_messages_are_lines_of_json() -> None:
    assert encode_line(Ready()) == b'{"type":"ready"}\n'
    assert decode_line(encode_line(Ready())) == Ready()
    for line in (b"ready\n", b"\n", b'{"type":"unknown"}\n', b'{"type":"\xff"}\n', b"[]\n"):
        with pytest.raises(ValueError):
            decode_line(line)


def test_a_line_over_the_limit_is_no_message_and_the_next_is() -> None:
    async def scenario() -> None:
        stream = asyncio.StreamReader(limit=MAX_LINE_BYTES)
        stream.feed_data(b"x" * 3 * MAX_LINE_BYTES + b"\n" + encode_line(Ready()))
        stream.feed_eof()
        lines = []
        while line := await read_line(stream):
            lines.append(line)
        assert lines == [b"\n", encode_line(Ready())]

    asyncio.run(scenario())
