"""The short form of `python -m tests.monitoring scripted`: each kind of anomaly once, for each type that can see it."""

from pathlib import Path

from tests.monitoring import scripted
from tests.monitoring.histories import KINDS
from tests.support.mongod import Mongod

HOURS = 1


def test_an_alert_opens_at_the_first_window_with_an_anomaly(tmp_path: Path, mongod: Mongod) -> None:
    figures = scripted.run(tmp_path, mongod, "18", number=lambda rule_type: len(KINDS[rule_type]), hours=HOURS)
    print(figures.line())  # noqa: T201 (for `pytest -s`)
