"""The engine of `sluice tail`: it prints what a response brings, and asks again from the last token on.

A response is a stream of messages (`event_stream.py`). Events go to a terminal as lines that are safe to show
(`event_line.py`), and to a pipe as they are. If events must be read again by time, ids tell which were printed
(`recent_ids.py`).
"""
