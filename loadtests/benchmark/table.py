"""Prints the benchmark's figures: the table, the answers to the questions, and warnings about disturbances."""

from collections.abc import Callable, Iterable, Sequence

from loadtests.benchmark.figures import Answer, Figures

GENERATOR_LIMIT_CORES = 0.9
"""Share of a core from which on a generator may be what limits a scenario."""

IDLE_LIMIT_CORES = 0.2
"""Idle cores of the machine below which the server and mongod lacked the CPU that the generators used."""

OTHERS_LIMIT_CORES = 0.3
"""Cores that processes outside the benchmark may use before the table says so."""

COLUMNS: dict[str, Callable[[Figures], str]] = {
    "events/s": lambda line: f"{line.events_per_s:,.0f}",
    "min-max": lambda line: f"{line.events_per_s_min:,.0f}-{line.events_per_s_max:,.0f}",
    "of ceiling": lambda line: "-" if line.of_ceiling is None else f"{line.of_ceiling:.2f}",
    "of plain": lambda line: "-" if line.of_plain is None else f"{line.of_plain:.2f}",
    "p50 ms": lambda line: f"{line.p50_ms:.1f}",
    "p95 ms": lambda line: f"{line.p95_ms:.1f}",
    "p99 ms": lambda line: f"{line.p99_ms:.1f}",
    "workers µs/event": lambda line: f"{line.workers_cpu_us_per_event:.1f}",
    "mongod µs/event": lambda line: f"{line.mongod_cpu_us_per_event:.1f}",
    "generators": lambda line: f"{line.generators} x {line.generator_cores:.2f}",
    "idle cores": lambda line: f"{line.idle_cores:.1f}",
    "other cores": lambda line: f"{line.others_cores:.1f}",
    "workers MiB": lambda line: "+".join(f"{size:.0f}" for size in line.workers_mib) or "-",
    "supervisor MiB": lambda line: f"{line.supervisor_mib:.0f}" if line.workers_mib else "-",
    "mongod MiB": lambda line: f"{line.mongod_mib:.0f}",
}
"""The table's columns, and the format of each."""

ANSWER_COLUMNS: dict[str, Callable[[Answer], str]] = {
    "median": lambda answer: f"{answer.value:.3f}",
    "min-max": lambda answer: f"{answer.lowest:.3f}-{answer.highest:.3f}",
    "aim": lambda answer: answer.aim or "-",
}
"""The columns of the table of answers, and the format of each."""

REASONS: dict[str, Callable[[Figures], bool]] = {
    "the generators were busy, so the server may be faster": lambda line: line.generator_cores > GENERATOR_LIMIT_CORES,
    "no core was idle, so the server lacked the CPU of the generators": lambda line: line.idle_cores < IDLE_LIMIT_CORES,
    "other processes used the machine": lambda line: line.others_cores > OTHERS_LIMIT_CORES,
}
"""What may have slowed a scenario down, and how its figures show it."""

LEGEND = f"""\
of ceiling, of plain: medians of the ratios to the ceiling, and to plain MongoDB at the same batch size, in the same
round; latencies: of a request; µs/event: CPU time; generators: processes x the share of a core that each used; idle
cores: of the machine; other cores: used by processes outside the benchmark; MiB: resident memory after a turn, the most
of all rounds.
How it is known that the generators are not the limit: one that used at most {GENERATOR_LIMIT_CORES} of a core could
have sent more. If at least {IDLE_LIMIT_CORES} cores were idle, the server and mongod had all the CPU that they could
use; else the generators took processes x share of a core from them. The warnings name the scenarios with a busier
generator or without idle cores."""


def rows_of(figures: Iterable[Figures]) -> list[list[str]]:
    """Return the rows of the table, each with its name first."""
    return [[line.name, *(cell(line) for cell in COLUMNS.values())] for line in figures]


def answer_rows(answers: Iterable[Answer]) -> list[list[str]]:
    """Return the rows of the table of answers, each with its question first."""
    return [[answer.what, *(cell(answer) for cell in ANSWER_COLUMNS.values())] for answer in answers]


def print_results(figures: Sequence[Figures], answers: Iterable[Answer]) -> None:
    """Print the figures, the answers, and what may have disturbed them."""
    print_table([["", *COLUMNS], *rows_of(figures)])
    print(LEGEND)
    print_table([["", *ANSWER_COLUMNS], *answer_rows(answers)])
    for warning in warnings(figures):
        print(f"warning: {warning}")


def print_table(table: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns: the first to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *row in table:
        print("  ".join((name.ljust(widths[0]), *map(str.rjust, row, widths[1:]))))


def warnings(figures: Sequence[Figures]) -> Iterable[str]:
    """Yield each reason to doubt figures, with the names of the scenarios that it applies to."""
    for reason, applies in REASONS.items():
        names = [line.name for line in figures if applies(line)]
        if names:
            yield f"{reason}: {'; '.join(names)}"
