"""The embedded database: a real `mongod` as a child of this process."""

from storage.embedded.mongod import EmbeddedMongod, State, embedded_database

__all__ = ["EmbeddedMongod", "State", "embedded_database"]
