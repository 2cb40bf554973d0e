"""Marks, outcomes and the audit log keep the same sentences in SQLite and PostgreSQL."""

from pathlib import Path

import pytest

from farthing.adapters.practice_log import SqlPractice
from farthing.adapters.practice_postgres import PostgresPractice
from farthing.adapters.practice_sqlite import SqlitePractice
from farthing.core.errors import Conflict
from farthing.core.series import Detector
from farthing.ports.audit import Changed
from farthing.ports.incidents import ExpectedDays, Mark
from farthing.ports.outcomes import Outcome
from farthing.testing.servers import postgres_url
from farthing.testing.stores import namespace_of


@pytest.fixture(params=["sqlite", "postgres"])
def practice(request: pytest.FixtureRequest, tmp_path: Path):
    made: SqlPractice
    if request.param == "sqlite":
        made = SqlitePractice(tmp_path / "farthing.db")
    else:
        made = PostgresPractice(postgres_url(), namespace_of(tmp_path))
    yield made
    made.close()


def test_the_first_mark_stays(practice: SqlPractice):
    practice.acknowledge(Mark(incident="an-1", by="grace", at_ms=1, note="seen"))
    practice.acknowledge(Mark(incident="an-1", by="ada", at_ms=2))
    assert practice.marks() == {"an-1": Mark(incident="an-1", by="grace", at_ms=1, note="seen")}


def test_expected_days_come_and_go(practice: SqlPractice):
    days = ExpectedDays(id="d", first="2026-11-27", last="2026-11-28", slice="chat", why="launch", by="ada", at_ms=1)
    practice.expect(days)
    assert practice.expected() == (days,)
    assert practice.forget_expected("d")
    assert not practice.forget_expected("d")
    assert practice.expected() == ()


def test_the_newest_rule_applies(practice: SqlPractice):
    assert practice.rule("day") is None
    for z in (4.0, 5.0):
        practice.save_rule("day", Detector(z=z))
    assert practice.rule("day") == Detector(z=5.0)
    assert practice.rule("hour") is None


def test_outcomes_are_taken_once_all_or_none(practice: SqlPractice):
    first = Outcome(id="a", kind="done", at_ms=5, session="s", value_nusd=-3, success=False)
    assert practice.add([first, Outcome(id="b", kind="other", at_ms=6, request_id="r")]) == (2, 0)
    assert practice.add([first]) == (0, 1)
    with pytest.raises(Conflict):
        practice.add([Outcome(id="c", kind="done", at_ms=7, session="s"), Outcome(id="a", kind="changed", at_ms=5)])
    assert practice.all(kind="done") == (first,)
    assert [one.id for one in practice.all(since_ms=5, until_ms=6)] == ["a"]
    assert practice.kinds() == (("done", 1), ("other", 1))


def test_a_change_is_noted_once_with_what_was_before_and_stays(practice: SqlPractice):
    for at, after in enumerate(("one", "one", "two", "one")):
        noted = practice.note(Changed(at_ms=at, subject="policy", after=after))
        assert noted == (at != 1)
    found = practice.changes()
    assert [(one.before, one.after) for one in found] == [("two", "one"), ("one", "two"), ("", "one")]
    assert practice.changes(subject="key") == ()
    assert practice.changes(limit=1) == found[:1]
