"""The benchmark's figures as text: the table, the answers, and what may have disturbed them. Imports the figures."""

from collections.abc import Callable, Iterable, Sequence

from loadtests.benchmark.figures import Answer, Figures

GENERATOR_LIMIT_CORES = 0.9
"""Above this share of a core, a generator may be what holds a scenario back."""

IDLE_LIMIT_CORES = 0.2
"""With less of the machine idle, what the generators took is what the server and mongod went without."""

OTHERS_LIMIT_CORES = 0.3
"""Processes without a part in this may take so much of the machine before the table says so."""

COLUMNS: dict[str, Callable[[Figures], str]] = {
    "events/s": lambda line: f"{line.events_per_s:,.0f}",
    "min-max": lambda line: f"{line.events_per_s_min:,.0f}-{line.events_per_s_max:,.0f}",
    "of ceiling": lambda line: "-" if line.of_ceiling is None else f"{line.of_ceiling:.2f}",
    "p50 ms": lambda line: f"{line.p50_ms:.1f}",
    "p95 ms": lambda line: f"{line.p95_ms:.1f}",
    "p99 ms": lambda line: f"{line.p99_ms:.1f}",
    "workers CPU s/M": lambda line: f"{line.workers_cpu_s_per_million:.1f}",
    "mongod CPU s/M": lambda line: f"{line.mongod_cpu_s_per_million:.1f}",
    "generators": lambda line: f"{line.generators} x {line.generator_cores:.2f}",
    "idle cores": lambda line: f"{line.idle_cores:.1f}",
    "other cores": lambda line: f"{line.others_cores:.1f}",
    "workers MiB": lambda line: "+".join(f"{size:.0f}" for size in line.workers_mib) or "-",
    "supervisor MiB": lambda line: f"{line.supervisor_mib:.0f}" if line.workers_mib else "-",
    "mongod MiB": lambda line: f"{line.mongod_mib:.0f}",
}
"""The table's columns, and how each is made from `Figures`."""

REASONS: dict[str, Callable[[Figures], bool]] = {
    "the generators were busy, and the server may do better": lambda line: line.generator_cores > GENERATOR_LIMIT_CORES,
    "no core was idle, so what the generators took was missed": lambda line: line.idle_cores < IDLE_LIMIT_CORES,
    "other processes used the machine meanwhile": lambda line: line.others_cores > OTHERS_LIMIT_CORES,
}
"""What may have held a scenario back, and how that shows in its figures."""

LEGEND = """\
of ceiling: of the same round's; latencies: of a request; CPU s/M: CPU seconds per million events;
generators: processes x the share of a core that each used; idle cores: of the machine;
other cores: used by processes that have no part in this; MiB: resident, right after a turn, the most of all rounds"""


def rows_of(figures: Iterable[Figures]) -> list[list[str]]:
    """The table, row by row, each with its name first."""
    return [[line.name, *(cell(line) for cell in COLUMNS.values())] for line in figures]


def print_results(figures: Sequence[Figures], answers: Iterable[Answer]) -> None:
    """Print the figures in aligned columns, the answers, and what may have disturbed them."""
    table = [["", *COLUMNS], *rows_of(figures)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *row in table:
        print("  ".join((name.ljust(widths[0]), *map(str.rjust, row, widths[1:]))))
    print(LEGEND)
    for answer in answers:
        print(answer_line(answer))
    for warning in warnings(figures):
        print(f"beware: {warning}")


def answer_line(answer: Answer) -> str:
    """An answer, and its aim where there is one."""
    return f"{answer.what}: {answer.value:.2f}{f' (aim: {answer.aim})' * bool(answer.aim)}"


def warnings(figures: Sequence[Figures]) -> Iterable[str]:
    """What makes some figures less than they seem, and which."""
    for reason, applies in REASONS.items():
        names = [line.name for line in figures if applies(line)]
        if names:
            yield f"{reason}: {'; '.join(names)}"
