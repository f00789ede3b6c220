"""What a run prints: a line for each fault, and a table at the end. And all figures as JSON."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import click
import msgspec

from tests.faults.course import Figures, Inflicted

DIRECTORY = Path(__file__).parent / "reports"


def fault_line(fault: Inflicted) -> str:
    """The line for a fault that is over."""
    time = f"{datetime.now(UTC):%H:%M:%S}"
    figures = f"{fault.seconds:5.1f} s  gap {fault.gap_s:5.2f} s  {fault.acknowledged:9,} acknowledged"
    return f"{time}  {figures}  {fault.kind}{f' ({fault.detail})' if fault.detail else ''}"


def seed_line(figures: Figures) -> str:
    """The line for a seed that is over."""
    total = figures.violations.total()
    verdict = "all as promised" if total == 0 else f"BROKEN: {wrong(figures)}"
    sums = f"{sum(figures.acknowledged.values()):,} events acknowledged, {figures.stored:,} stored"
    return f"seed {figures.seed}: {len(figures.faults)} faults, {sums}: {verdict}"


def wrong(figures: Figures) -> str:
    """The violations by name, and the improper responses themselves."""
    counts = {**figures.violations.by_name(), **figures.improper}
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items() if count)


def table(seeds: Sequence[Figures]) -> Iterable[str]:
    """The sums over all seeds."""
    gaps: dict[str, list[float]] = defaultdict(list)
    for fault in (fault for figures in seeds for fault in figures.faults):
        gaps[fault.kind].append(fault.gap_s)
    yield f"{'fault':34} {'times':>5} {'longest gap':>12} {'median gap':>11}"
    for kind, found in sorted(gaps.items()):
        yield f"{kind:34} {len(found):5} {max(found):10.2f} s {median(found):9.2f} s"
    yield f"{'all':34} {sum(map(len, gaps.values())):5}"
    yield ""
    acknowledged = sums(figures.acknowledged for figures in seeds)
    attempts = sums(figures.attempts for figures in seeds)
    repeats = sum(figures.repeats for figures in seeds)
    yield f"events acknowledged: {acknowledged.total():,} ({in_words(acknowledged)})"
    yield f"attempts: {attempts.total():,} ({in_words(attempts)}); repeats: {repeats:,}"
    for name, count in sums(figures.violations.by_name() for figures in seeds).items():
        yield f"{name}: {count:,}"


def sums(counts: Iterable[dict[str, int]]) -> Counter[str]:
    """Counts added up, with those that are 0."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def in_words(counts: Counter[str]) -> str:
    """Each count with its name."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def write(path: Path | None, command: str, seeds: Sequence[Figures]) -> Path:
    """Write all figures to `path`, or else to a new file in the directory of reports. Returns the path."""
    now = datetime.now(UTC)
    if path is None:
        DIRECTORY.mkdir(exist_ok=True)
        path = DIRECTORY / f"faults-{now:%Y%m%dT%H%M%SZ}.json"
    report = {"date": now.isoformat(timespec="seconds"), "command": command, "seeds": seeds}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return path


def say(line: str) -> None:
    """Show progress."""
    click.echo(line)
