"""One load-generator process of the benchmark, which `loadtests.benchmark.driving` starts.

1. The job arrives as a line of JSON on stdin.
2. The generator makes requests in advance, and prints `ready`.
3. The next line on stdin starts the job.
4. The result goes to stdout as a line of JSON. It has the generator's CPU time, which shows whether the generator was
   what limited the figures.
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
    "insert_command": run_mongodb,
    "insert_many": run_mongodb,
    "insert_one": run_mongodb,
    "rest": run_rest,
    "grpc": run_grpc,
}


def wait_for_start() -> None:
    """Print `ready`, and wait for the line that starts the job. Exit if the benchmark has ended."""
    gc.collect()
    gc.freeze()  # so that the collector does not scan the requests made in advance
    print("ready", flush=True)
    if not sys.stdin.readline():
        sys.exit("the benchmark ended before it started this job")


def main() -> None:
    """Read a job, do it and print its result."""
    job = msgspec.json.decode(sys.stdin.readline(), type=Job)
    unwritten = msgspec.json.encode(DRIVES[job.driven](job, wait_for_start)) + b"\n"
    while unwritten:  # a pipe takes a part at a time, and print() with PYTHONUNBUFFERED would lose the rest
        unwritten = unwritten[os.write(sys.stdout.fileno(), unwritten) :]


if __name__ == "__main__":
    main()
