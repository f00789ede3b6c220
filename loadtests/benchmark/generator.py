"""One load-generator process of the benchmark, started by `loadtests.benchmark.driving` only.

A job comes as a line of JSON on stdin. All that can be made beforehand is made before `ready` goes to stdout; the work
begins at the next line on stdin, and its result is a line of JSON on stdout. The generator's CPU time is in the result,
to show that the generator is not what is measured.
"""

import gc
import os
import sys
from collections.abc import Callable

import msgspec

from loadtests.benchmark.drive_grpc import run_grpc
from loadtests.benchmark.drive_mongodb import run_mongodb
from loadtests.benchmark.drive_rest import run_rest
from loadtests.benchmark.jobs import Driven, Job, Result

DRIVES: dict[Driven, Callable[[Job, Callable[[], None]], Result]] = {
    "insert_many": run_mongodb,
    "insert_one": run_mongodb,
    "rest": run_rest,
    "grpc": run_grpc,
}


def wait_for_start() -> None:
    """Say that all is made, and wait for the word to begin."""
    gc.collect()
    gc.freeze()  # what was made beforehand is not looked at again
    print("ready", flush=True)
    if not sys.stdin.readline():
        sys.exit("nobody is there to say when to begin")


def main() -> None:
    """Take a job, do it, and print its result."""
    job = msgspec.json.decode(sys.stdin.readline(), type=Job)
    unwritten = msgspec.json.encode(DRIVES[job.driven](job, wait_for_start)) + b"\n"
    while unwritten:  # a pipe takes a part at a time, and unbuffered output (PYTHONUNBUFFERED) would lose the rest
        unwritten = unwritten[os.write(sys.stdout.fileno(), unwritten) :]


if __name__ == "__main__":
    main()
