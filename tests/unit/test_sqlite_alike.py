"""Rows of settlements that are alike, held against rows that are made from the records."""

import contextlib
import sqlite3
from typing import Any

import hypothesis.strategies as st
import msgspec
from hypothesis import given

from farthing.adapters.sqlite_alike import rows_alike
from farthing.adapters.sqlite_inserts import ShapedRow, entry_to_sqlite, exchange_to_sqlite, insert
from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, EXCHANGE_COLUMNS, quoted
from farthing.core.money import Nusd
from farthing.core.types import Charge, Decision, Exchange, LedgerEntry, PromptView, Scope, Usage
from farthing.ports.books import AGE, Alike, Settlement

WORDS = st.text(max_size=8)


def decision(age: str, route: str, more: tuple[tuple[str, str], ...]) -> Decision:
    evidence = (("layer", "memory"), ("key", "ab"), (AGE, age), ("route", route), *more)
    return Decision(stage="cache", action="hit", reason="exact_hit", saved=Nusd(7), evidence=evidence)


@st.composite
def common(draw: st.DrawFn) -> dict[str, Any]:
    """What hits on one answer have in common."""
    return {
        "scope": Scope(org=draw(WORDS), team=draw(WORDS), user=draw(WORDS), key="k", tags=((draw(WORDS), "v"),)),
        "model": draw(WORDS),
        "route": draw(st.one_of(WORDS, st.sampled_from(("[age]", '"', "\\", "é\n")))),
        "more": draw(st.lists(st.tuples(WORDS, WORDS), max_size=2).map(tuple)),
        "baseline": draw(st.one_of(st.none(), st.integers(0, 10**12))),
        "prompt": draw(st.one_of(st.none(), st.binary(max_size=20))),
        "stream": draw(st.booleans()),
    }


def settlement(alike: Alike, said: dict[str, Any], number: int, at_ms: int, age_ms: int) -> Settlement:
    decisions = (decision(str(age_ms), said["route"], said["more"]),)
    request_id = f"req_{number:031x}"
    entry = LedgerEntry(
        id=f"{request_id}-0",
        request_id=request_id,
        attempt=0,
        received_at_ms=at_ms,
        booked_at_ms=at_ms,
        scope=said["scope"],
        dialect="openai",
        endpoint="chat",
        provider="openai",
        price_as="openai",
        model_requested=said["model"],
        model=said["model"],
        usage=Usage(source="reported"),
        charge=Charge(total=Nusd(0), state="free", reason="cache_hit", price_ref="p"),
        baseline=said["baseline"],
        decisions=decisions,
        stream=said["stream"],
    )
    exchange = Exchange(
        request_id=request_id,
        received_at_ms=at_ms,
        scope=said["scope"],
        dialect="openai",
        view=PromptView(endpoint="chat", model=said["model"], stream=said["stream"]),
        outcome="answered",
        status=200,
        decisions=decisions,
        prompt=said["prompt"],
    )
    return Settlement(reservation=None, entries=(entry,), exchange=exchange, alike=alike)


def written(rows: list[ShapedRow]) -> list[list[Any]]:
    """What the file has once the rows are in it."""
    with contextlib.closing(sqlite3.connect(":memory:")) as file:
        for table, columns in (("entries", ENTRY_COLUMNS), ("exchanges", EXCHANGE_COLUMNS)):
            file.execute(f"CREATE TABLE {table} ({quoted(columns)})")
        insert(file.execute, rows)
        return [file.execute(f"SELECT * FROM {table}").fetchall() for table in ("entries", "exchanges")]


@given(
    common(), st.lists(st.tuples(st.integers(0, 2**80), st.integers(0, 2**41), st.integers(0, 10**12)), min_size=1)
)
def test_rows_are_those_of_the_records(said: dict[str, Any], hits: list[tuple[int, int, int]]) -> None:
    alike = Alike()
    for number, at_ms, age_ms in hits:
        one = settlement(alike, said, number, at_ms, age_ms)
        rows = rows_alike(one, alike)
        assert one.exchange is not None
        plain = written([entry_to_sqlite(one.entries[0]), exchange_to_sqlite(one.exchange)])
        if rows is None:  # then it can only be that something else looks like the mark
            assert b"[age]" in msgspec.json.encode(said["route"]) + msgspec.json.encode(said["more"])
        else:
            assert written(list(rows)) == plain


def test_hits_take_the_short_way() -> None:
    said = {"scope": Scope(key="k"), "model": "m", "route": "r", "more": (), "baseline": 1, "prompt": None}
    alike = Alike()
    assert rows_alike(settlement(alike, {**said, "stream": False}, 1, 2, 3), alike) is not None
