"""Runs the embedded database: a real `mongod` as a child of this process, its files in the data directory. Linux only.

Rules:
1. The process that holds the lock of the data directory runs the one `mongod` there.
2. `mongod` inherits the lock. So if its holder is killed, the data directory is free only when `mongod` has ended too.
3. Every step of a start may be interrupted. The next start repeats it.
4. `mongod` must be started from the main thread: the kernel stops it when the thread that started it ends.
"""

from storage.embedded.data_directory import State
from storage.embedded.mongod import EmbeddedMongod, embedded_database

__all__ = ["EmbeddedMongod", "State", "embedded_database"]
