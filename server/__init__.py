"""The Sluice server: a command line, a core that knows no protocol, and the faces callers see."""
