"""Rows of a group commit: written together where they agree, they are the rows that were meant."""

import sqlite3
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.sqlite_inserts import entry_to_sqlite, exchange_to_sqlite, insert, insert_in_order
from farthing.adapters.sqlite_rows import (
    ENTRY_COLUMNS,
    EXCHANGE_COLUMNS,
    entry_from_row,
    entry_to_row,
    exchange_to_row,
    quoted,
)
from farthing.adapters.sqlite_schema import migrations, statements
from farthing.core.money import Nusd
from farthing.core.types import (
    Charge,
    ChargeLine,
    Decision,
    Exchange,
    LedgerEntry,
    PromptView,
    Scope,
    Usage,
    UsagePart,
)

FEW = st.sampled_from(["", "a", "b", "ü'?"])
AMOUNTS = st.none() | st.integers(-(2**63), 2**63 - 1).map(Nusd)
SCOPES = st.builds(
    Scope,
    org=FEW,
    team=FEW,
    project=FEW,
    user=FEW,
    feature=FEW,
    customer=FEW,
    session=FEW,
    key=FEW,
    tags=st.sampled_from([(), (("t", "1"),)]),
)
ENTRIES = st.builds(
    LedgerEntry,
    id=st.uuids().map(str),
    request_id=FEW,
    attempt=st.integers(0, 3),
    kind=st.sampled_from(["charge", "reversal"]),
    corrects=FEW,
    received_at_ms=st.integers(0, 2**40),
    booked_at_ms=st.integers(0, 2**40),
    scope=SCOPES,
    dialect=FEW,
    endpoint=FEW,
    provider=FEW,
    price_as=FEW,
    model_requested=FEW,
    model=FEW,
    usage=st.builds(
        Usage,
        source=st.sampled_from(["reported", "estimated"]),
        service_tier=FEW,
        parts=st.sampled_from([(), (UsagePart(lines=(("input", 5), ("cache_read", 2)), tier_basis=7),)]),
    ),
    charge=st.builds(
        Charge,
        lines=st.sampled_from(
            [(), (ChargeLine(unit="input", quantity=5, price=None, amount=Nusd(9), row="r"),)],
        ),
        total=AMOUNTS,
        computed=AMOUNTS,
        reason=FEW,
    ),
    baseline=AMOUNTS,
    ceiling=AMOUNTS,
    decisions=st.sampled_from([(), (Decision(stage="s", action="a", reason="r"),)]),
    stream=st.booleans(),
    status=st.sampled_from([0, 200, 500]),
    error=FEW,
    client_gone=st.booleans(),
    ttft_ms=st.none() | st.integers(0, 10**6),
    latency_ms=st.integers(0, 10**6),
)
EXCHANGES = st.builds(
    Exchange,
    request_id=st.uuids().map(str),
    received_at_ms=st.integers(0, 2**40),
    scope=SCOPES,
    dialect=FEW,
    view=st.builds(PromptView, endpoint=FEW, model=FEW),
    outcome=st.sampled_from(["answered", "refused", "failed"]),
    status=st.sampled_from([200, 429]),
    error=FEW,
    amount=AMOUNTS,
    latency_ms=st.integers(0, 10**6),
    prompt=st.none() | st.binary(max_size=3000),
)


@cache
def _ledger():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for script in migrations():
        for statement in statements(script):
            connection.execute(statement)
    return connection


def ledger():
    """An empty one."""
    connection = _ledger()
    connection.execute("DELETE FROM entries")
    connection.execute("DELETE FROM exchanges")
    return connection


def stored(connection, table, columns):
    return connection.execute(f"SELECT {quoted(columns)} FROM {table} ORDER BY seq").fetchall()


@settings(max_examples=25, deadline=None)
@given(entries=st.lists(ENTRIES, max_size=9), alike=st.lists(ENTRIES, max_size=1), copies=st.integers(0, 70))
def test_entries_are_the_rows_that_were_meant(entries, alike, copies):
    """Many kinds at once, and more of one kind than a statement takes."""
    same = [
        LedgerEntry(**{name: getattr(one, name) for name in one.__struct_fields__} | {"id": f"copy{number}"})
        for one in alike
        for number in range(copies)
    ]
    meant = [*entries, *same]
    for write in (insert, insert_in_order):
        connection = ledger()
        write(connection.execute, [entry_to_sqlite(entry) for entry in meant])
        rows = stored(connection, "entries", ENTRY_COLUMNS)
        assert sorted(rows) == sorted(entry_to_row(entry) for entry in meant)
        if write is insert_in_order:
            assert [entry_from_row(row) for row in rows] == meant


@settings(max_examples=25, deadline=None)
@given(exchanges=st.lists(EXCHANGES, max_size=40))
def test_exchanges_are_the_rows_that_were_meant_and_the_first_of_an_id_stays(exchanges):
    connection = ledger()
    insert(connection.execute, [exchange_to_sqlite(one) for one in exchanges])
    insert(connection.execute, [exchange_to_sqlite(one) for one in exchanges[:3]])
    assert sorted(stored(connection, "exchanges", EXCHANGE_COLUMNS)) == sorted(map(exchange_to_row, exchanges))
