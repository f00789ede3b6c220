"""Which rights of a user of MongoDB are missing, by its privileges."""

from typing import Any

import pytest

from storage.checks import RIGHTS_ON_EACH, missing, missing_on_each
from storage.indexes import COLLECTIONS


def privilege(actions: list[str], **resource: Any) -> dict[str, Any]:
    return {"resource": resource, "actions": actions}


ALL = list(RIGHTS_ON_EACH)


@pytest.mark.parametrize(
    ("privileges", "lacking"),
    [
        ([privilege(ALL, db="sluice", collection="")], []),
        ([privilege(ALL, db="", collection="")], []),
        ([privilege(ALL, anyResource=True)], []),
        ([privilege(ALL, db="sluice", collection=name) for name in COLLECTIONS], []),
        ([privilege(ALL, db="sluice", collection=name) for name in COLLECTIONS[1:]], ALL),
        ([privilege(ALL[1:], db="sluice", collection="")], ALL[:1]),
        ([privilege(ALL, db="other", collection="")], ALL),
        ([privilege(ALL, cluster=True)], ALL),
        ([], ALL),
    ],
)
def test_each_collection_must_be_covered(privileges: list[dict[str, Any]], lacking: list[str]) -> None:
    assert list(missing_on_each(privileges, "sluice")) == lacking


def test_all_collections_together_are_more_than_one() -> None:
    privileges = [privilege(["find"], db="sluice", collection="events")]
    assert list(missing(privileges, "sluice", ["find"], ["events"])) == []
    assert list(missing(privileges, "sluice", ["find"], [""])) == ["find"]
