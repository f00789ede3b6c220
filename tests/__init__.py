"""All tests. README.md in this folder says what they promise, where each kind is, and how to run it."""
