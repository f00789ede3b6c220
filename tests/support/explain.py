"""What MongoDB does to answer a query."""

from typing import NamedTuple

from pymongo.database import Database

from tests.support.harness import Json


class Explained(NamedTuple):
    """How MongoDB carried out a query."""

    plan: str
    """The plan that won, as text: the names of its stages and indexes."""
    documents: int
    """How many documents it examined."""
    keys: int
    """How many entries of indexes it examined."""


def explained(database: Database[Json], command: Json) -> Explained:
    """Carry out a `find` or `aggregate` command, and return how."""
    explain = {"explain": command, "verbosity": "executionStats"}
    reply = database.command(explain, codec_options=database.codec_options)  # UUIDs as the client encodes them
    cursor = reply["stages"][0]["$cursor"] if "stages" in reply else reply
    statistics = cursor["executionStats"]
    plan = str(cursor["queryPlanner"]["winningPlan"])
    return Explained(plan, statistics["totalDocsExamined"], statistics["totalKeysExamined"])
