"""The hold journal: what a dead worker leaves is what it held, row for row, whoever wrote it."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.sqlite_journal import HoldJournal, read_journal
from farthing.adapters.sqlite_rows import (
    Stub,
    held_record,
    lost_entry,
    record_to_row,
    reservation_from_row,
)
from farthing.core.money import Nusd
from farthing.core.types import Charge, Decision, Hold, LedgerEntry, Reservation, Scope, Usage

TEXT = st.text(max_size=12)
HOLDS = st.builds(
    Hold,
    counter=TEXT,
    window=TEXT,
    unit=st.sampled_from(["usd", "tokens", "requests"]),
    limit=st.integers(0, 2**62),
    amount=st.integers(0, 2**62),
    budget=TEXT,
    resets_at_ms=st.none() | st.integers(0, 2**40),
    hard=st.booleans(),
    also=st.lists(TEXT, max_size=3, unique=True).map(tuple),
)
RESERVATIONS = st.builds(
    Reservation,
    id=st.uuids().map(str),
    request_id=TEXT,
    holds=st.lists(HOLDS, max_size=3).map(tuple),
    ceiling=st.none() | st.integers(0, 2**62).map(Nusd),
    expires_at_ms=st.integers(0, 2**40),
)
STUBS = st.builds(
    LedgerEntry,
    id=TEXT,
    request_id=TEXT,
    attempt=st.integers(1, 9),
    received_at_ms=st.integers(0, 2**40),
    booked_at_ms=st.just(0),
    scope=st.builds(Scope, team=TEXT, user=TEXT, tags=st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple)),
    dialect=TEXT,
    endpoint=TEXT,
    provider=TEXT,
    price_as=TEXT,
    model_requested=TEXT,
    model=TEXT,
    usage=st.just(Usage(source="estimated")),
    charge=st.just(Charge()),
    baseline=st.none() | st.integers(0, 2**62).map(Nusd),
    policy_ref=TEXT,
    decisions=st.lists(
        st.builds(Decision, stage=TEXT, action=TEXT, reason=TEXT, evidence=st.just((("a", "b"),))), max_size=2
    ).map(tuple),
    stream=st.booleans(),
)


@given(held=st.lists(st.tuples(RESERVATIONS, st.none() | STUBS), max_size=5), ended=st.integers(0, 5))
def test_what_is_in_flight_is_read_back_and_what_has_ended_is_not(tmp_path_factory, held, ended):
    folder = tmp_path_factory.mktemp("holds")
    journal = HoldJournal(folder, "w")
    for reservation, stub in held:
        journal.hold(reservation.id, held_record(reservation, worker="w", now_ms=7, stub=stub))
    journal.ended([reservation.id for reservation, _ in held[:ended]])
    rows = read_journal(folder, "w")
    assert [reservation_from_row(row) for row in rows] == [reservation for reservation, _ in held[ended:]]
    for row, (_, stub) in zip(rows, held[ended:], strict=True):
        lost = lost_entry(row, now_ms=9)
        if stub is not None:
            assert [getattr(lost, name) for name in Stub.__struct_fields__] == [
                getattr(stub, name) for name in Stub.__struct_fields__
            ]


@given(reservation=RESERVATIONS, stub=st.none() | STUBS)
def test_a_record_and_its_row_mean_the_same(tmp_path_factory, reservation, stub):
    folder = tmp_path_factory.mktemp("holds")
    record = held_record(reservation, worker="w", now_ms=7, stub=stub)
    row = record_to_row(record)
    (folder / "old.holds.00000000").write_bytes(b"+" + msgspec.json.encode(row) + b'\n+["torn')
    HoldJournal(folder, "new").hold(reservation.id, record)
    assert read_journal(folder, "old") == read_journal(folder, "new") == [row]
    assert record_to_row(row) == row


@settings(max_examples=20)
@given(lasts=st.lists(st.integers(0, 40), min_size=60, max_size=60), wide=st.integers(1, 60))
def test_segments_are_used_again_and_nothing_in_flight_is_lost(tmp_path_factory, lasts, wide):
    """Calls end in any order while the journal turns: after each turn it holds exactly what is in flight."""
    folder = tmp_path_factory.mktemp("holds")
    journal = HoldJournal(folder, "w")
    hold = Hold(counter="c" * wide * 1000, window="w", unit="usd", limit=1, amount=1)
    ends: dict[int, list[str]] = {}
    flying: set[str] = set()
    for number, last in enumerate(lasts):
        one = Reservation(id=f"r{number}", request_id="q", holds=(hold,), ceiling=None, expires_at_ms=1)
        journal.hold(one.id, held_record(one, worker="w", now_ms=7, stub=None))
        flying.add(one.id)
        ends.setdefault(number + last, []).append(one.id)
        over = ends.pop(number, [])
        journal.ended(over)
        flying -= set(over)
        if number % 7 == 0:
            assert {row[0] for row in read_journal(folder, "w")} == flying
    assert {row[0] for row in read_journal(folder, "w")} == flying
    files = len(list(folder.glob("w.holds.*")))
    assert files <= len(flying) + 2
    journal.close()
    assert not list(folder.glob("w.holds.*"))


def test_a_journal_of_an_earlier_release_says_what_has_ended_in_lines_of_its_own(tmp_path):
    rows = [
        record_to_row(
            held_record(
                Reservation(id=id, request_id="q", holds=(), ceiling=None, expires_at_ms=1),
                worker="old", now_ms=7, stub=None,
            )
        )
        for id in ("a", "b")
    ]  # fmt: skip
    lines = b"".join(b"+%b\n" % msgspec.json.encode(row) for row in rows)
    (tmp_path / "old.holds.00000000").write_bytes(lines + b"-a\n" + bytes(100))
    assert read_journal(tmp_path, "old") == [rows[1]]
