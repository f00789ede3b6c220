"""The Sluice server: command line, processes, APIs, and a core that knows no protocol."""
