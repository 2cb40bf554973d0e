"""Roll-outs keep the same sentences in SQLite and PostgreSQL."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from farthing.adapters.rollouts_postgres import PostgresRollouts
from farthing.adapters.rollouts_sql import SqlRollouts
from farthing.adapters.rollouts_sqlite import SqliteRollouts
from farthing.core.rollout import RolloutState
from farthing.core.rollout_fold import Note, PairNote
from farthing.ports.audit import Changed
from farthing.testing.servers import postgres_url
from farthing.testing.stores import namespace_of


def opened(kind: str, folder: Path) -> SqlRollouts:
    if kind == "sqlite":
        return SqliteRollouts(folder / "farthing.db")
    return PostgresRollouts(postgres_url(), namespace_of(folder))


@pytest.fixture(params=["sqlite", "postgres"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[SqlRollouts, SqlRollouts]]:
    """Two workers' views of one store."""
    one, other = opened(request.param, tmp_path), opened(request.param, tmp_path)
    yield one, other
    one.close()
    other.close()


def note(number: int) -> PairNote:
    return PairNote(route="r", candidate="c", at_ms=number, day="1", nusd=1, difference=0.0)


def counting(states: Mapping[str, RolloutState], notes: Sequence[Note]):
    before = states.get("r") or RolloutState(route="r")
    return {"r": msgspec.structs.replace(before, pairs=before.pairs + len(notes))}, ()


def test_every_note_is_folded_once_whoever_brought_it(both: tuple[SqlRollouts, SqlRollouts]) -> None:
    one, other = both
    assert not one.waiting()

    def bring(worker: SqlRollouts) -> None:
        for number in range(20):
            worker.saw([note(number), note(number)])

    threads = [threading.Thread(target=bring, args=(worker,)) for worker in both]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        one.fold(counting)
    one.fold(counting)
    assert other.read()["r"].pairs == 80
    assert not other.waiting()


def test_a_fold_that_fails_leaves_notes_states_and_audit_as_they_were(both: tuple[SqlRollouts, SqlRollouts]) -> None:
    one, other = both
    one.saw([note(1)])

    def broken(states: Mapping[str, RolloutState], notes: Sequence[Note]):
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError):
        one.fold(broken)
    assert other.waiting()
    assert other.read() == {}
    one.fold(lambda states, notes: (counting(states, notes)[0], [Changed(at_ms=5, subject="route", name="r")]))
    assert other.read()["r"].pairs == 1
    assert [(row.subject, row.name) for row in other.changes()] == [("route", "r")]


def test_a_change_by_hand_keeps_the_notes_that_wait(both: tuple[SqlRollouts, SqlRollouts]) -> None:
    one, other = both
    one.saw([note(1)])
    one.change(
        "r", lambda state: msgspec.structs.replace(state, stage="canary", step=0),
        lambda state: Changed(at_ms=5, subject="route", name=state.route, before=state.stage),
    )  # fmt: skip
    assert other.read()["r"].stage == "canary"
    assert other.waiting()
    assert other.changes()[0].before == "shadow"


def test_one_worker_owns_the_roll_outs_until_its_lease_ends(both: tuple[SqlRollouts, SqlRollouts]) -> None:
    one, other = both
    assert one.own("a", now_ms=0, until_ms=10)
    assert not other.own("b", now_ms=5, until_ms=15)
    assert one.own("a", now_ms=5, until_ms=20)
    assert not other.own("b", now_ms=20, until_ms=30)
    assert other.own("b", now_ms=21, until_ms=30)
    assert not one.own("a", now_ms=22, until_ms=40)
    other.disown("b")
    assert one.own("a", now_ms=22, until_ms=40)
