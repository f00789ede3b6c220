"""Tests of single modules, with no server and no database: all of them take a few seconds."""
