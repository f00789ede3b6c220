"""The embedded database, with a real mongod in real processes."""
