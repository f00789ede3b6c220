"""The engine of `sluice export`: it writes what a response brings, and asks again for what is missing.

Lines are written whole (`whole_lines.py`), to stdout or to a file that has its name only once it is whole
(`part_file.py`). After a lost connection, and in the next command, the id in the last line says from where to go on.
"""
