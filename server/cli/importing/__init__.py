"""The engine of `sluice import`: it reads lines, makes batches of them, sends these, and remembers how far it has come.

The theory. A file is read as lines, and lines are cut into batches by their number and size, never by time. So an
unchanged file has the same batches each time. The idempotency key of a batch is a hash of its place, its bytes and the
options, so the server stores an equal batch once (`batches.py`).

A file that has grown has another last batch. So a journal beside the file knows the bytes of each batch before it is
sent, and when it is acknowledged (`journal.py`). The next run sends the batch again that was begun and not
acknowledged, with the same bytes and key. Then it goes on behind it.

Example: a file has 15,000 lines of 300 bytes. The batches [0, 3 MB) and [3 MB, 4.5 MB) are begun, and the import is
killed before the second one is acknowledged. Meanwhile the file grows to 30,000 lines. The next run sends
[3 MB, 4.5 MB) again: the server has it, or stores it. Then come [4.5 MB, 7.5 MB) and [7.5 MB, 9 MB).

One batch is sent at a time, and the next one is read meanwhile (`engine.py`). So ids ascend in the order of the lines.
"""
