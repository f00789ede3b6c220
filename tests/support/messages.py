"""Serializes fields of gRPC messages by hand, also such as no client sends."""


def field(number: int, content: bytes) -> bytes:
    """A serialized field of bytes, text or a message. `number` is at most 15."""
    size, length = len(content), b""
    while size >= 0x80:
        size, length = size >> 7, length + bytes([size & 0x7F | 0x80])
    return bytes([number << 3 | 2]) + length + bytes([size]) + content
