"""A terminal, on which a command shows its progress."""

import os
import pty
import termios
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

READ_BYTES = 4_096


class Terminal:
    """A terminal of 100 columns. What is written is read at once: a terminal holds some KB, and then writers wait."""

    def __init__(self) -> None:
        self._reader, self.descriptor = pty.openpty()
        self._is_open = True
        termios.tcsetwinsize(self.descriptor, (24, 100))
        self._shown = b""
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        with suppress(OSError):  # nobody has it open any more
            while chunk := os.read(self._reader, READ_BYTES):
                self._shown += chunk

    def shown(self) -> str:
        """All that was written. The commands that have it open must have ended."""
        self._close()
        return self._shown.decode()

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self.descriptor)
            self._thread.join()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        os.close(self._reader)
