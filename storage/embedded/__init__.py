"""The embedded database: a real `mongod` as a child of this process."""

from storage.embedded.all import EmbeddedMongod, State, embedded_database

__all__ = ["EmbeddedMongod", "State", "embedded_database"]
