"""Importing traces: exact rows, exact money, nothing half-done, nothing twice."""

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.money import Nusd, Pusd, amount_nusd
from farthing.core.types import Bounds, Charge, ChargeLine, Exchange, LedgerEntry, Scope, Target, Usage
from farthing.lab.importer import Batch, Plan, gather
from farthing.lab.traces import SOURCES, TraceRow, parse_time, read_rows
from farthing.lab.traces_cells import BadRow

NOW = 1_795_255_200_000
AZURE = SOURCES["azure-llm-trace"]
MOONCAKE = SOURCES["mooncake-trace"]
DATA = os.environ.get("FARTHING_DATA", "")
needs_data = pytest.mark.skipif(not DATA, reason="FARTHING_DATA names no folder with the public traces")


class ListPrices:
    """gpt-4o-mini as listed in 2024; every other model is unknown. Remembers the instants it was asked for."""

    ref = "list"

    def __init__(self) -> None:
        self.asked: set[int] = set()
        self._rates = {"input": Pusd(150_000), "input_cache_read": Pusd(75_000), "output": Pusd(600_000)}

    def charge(self, usage: Usage, target: Target, *, at_ms: int) -> Charge:
        self.asked.add(at_ms)
        if target.model != "gpt-4o-mini":
            return Charge(reason="unknown_model", price_ref=self.ref)
        lines = tuple(
            ChargeLine(
                unit=unit, quantity=count, price=self._rates[unit], amount=amount_nusd(count, self._rates[unit])
            )
            for unit, count in usage.parts[0].lines
        )
        total = Nusd(sum(line.amount or 0 for line in lines))
        return Charge(lines=lines, total=total, state="priced" if total else "free", price_ref=self.ref)

    def ceiling(self, bounds: Bounds, target: Target, *, at_ms: int) -> Nusd | None:
        return None

    def context_window(self, target: Target) -> int | None:
        return None


class OneTransaction:
    """An importer in memory: all of a batch or none of it."""

    def __init__(self) -> None:
        self.entries: dict[str, LedgerEntry] = {}
        self.exchanges: dict[str, Exchange] = {}

    def import_batch(self, entries: Iterable[LedgerEntry], exchanges: Iterable[Exchange]) -> tuple[int, int]:
        booked, logged = list(entries), list(exchanges)
        assert len({entry.id for entry in booked}) == len(booked), "ids repeat within one file"
        new = [entry for entry in booked if entry.id not in self.entries]
        self.entries = {entry.id: entry for entry in booked} | self.entries
        self.exchanges = {exchange.request_id: exchange for exchange in logged} | self.exchanges
        return len(new), len(booked) - len(new)


def plan(**changes: object) -> Plan:
    values: dict[str, object] = {
        "source": AZURE,
        "model": "gpt-4o-mini",
        "provider": "openai",
        "price_as": "openai",
        "scope": Scope(team="search"),
        "priced_at_ms": NOW,
        "now_ms": NOW,
    }
    return Plan(**(values | changes))


def batch(text: str, **changes: object) -> Batch:
    chosen = plan(**changes)
    rows, bad = gather(read_rows(text.splitlines(keepends=True), chosen.source, start_ms=NOW))
    return Batch(rows, bad, chosen, ListPrices())


HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def test_an_azure_row_keeps_its_time_to_the_millisecond_and_its_tokens():
    (row,) = read_rows([HEADER, "2023-11-16 18:15:46.6805900,374,44"], AZURE)
    assert isinstance(row, TraceRow)
    assert (row.at_ms, row.input_tokens, row.output_tokens, row.line) == (1_700_158_546_680, 374, 44, 2)


def test_a_mooncake_row_starts_at_the_origin_and_keeps_its_prefix_blocks():
    line = '{"timestamp": 1500, "input_length": 1000, "output_length": 5, "hash_ids": [0, 14]}'
    (row,) = read_rows([line], MOONCAKE, start_ms=NOW)
    assert isinstance(row, TraceRow)
    assert (row.at_ms, row.blocks) == (NOW + 1500, ("0", "14"))
    found = next(iter(batch(line, source=MOONCAKE).exchanges()))
    assert (found.blocks, found.block_bytes, found.view.body_bytes) == (("0", "14"), 2048, 4000)


def test_an_entry_says_that_it_was_imported_and_from_where():
    (entry,) = batch(HEADER + "2023-11-16 18:15:46,1000,100\n").entries()
    assert entry.charge.total == 1000 * 150 + 100 * 600
    assert (entry.usage.source, entry.dialect, entry.endpoint, entry.scope.team) == (
        "reported",
        "openai",
        "chat",
        "search",
    )
    (decision,) = entry.decisions
    assert decision.reason == "imported"
    assert dict(decision.evidence) == {"source": "azure-llm-trace", "line": "2", "priced_at_ms": str(NOW)}


def test_the_exchange_of_a_row_agrees_with_its_entry():
    one = batch(HEADER + "2023-11-16 18:15:46,1000,100\n")
    (entry,), (exchange,) = one.entries(), one.exchanges()
    assert (exchange.request_id, exchange.amount, exchange.usage) == (
        entry.request_id,
        entry.charge.total,
        entry.usage,
    )
    assert exchange.attempts[0].entry_id == entry.id


def test_a_row_of_a_failed_call_is_no_answer_in_entry_and_exchange():
    line = {"startTime": "2026-11-01T10:00:00Z", "model": "gpt-4o-mini", "prompt_tokens": 10, "completion_tokens": 1,
            "status": "failure", "request_id": "a"}  # fmt: skip
    one = batch(json.dumps(line), source=SOURCES["litellm"])
    (entry,), (exchange,) = one.entries(), one.exchanges()
    assert (entry.status, entry.error) == (500, "upstream_error")
    assert (exchange.outcome, exchange.status, exchange.error) == ("failed", 500, "upstream_error")
    (fact,) = exchange.attempts
    assert (fact.status, fact.entry_id) == (200, entry.id), "billed, so it answered: a replay keeps its cost"


def test_identical_rows_stay_distinct_and_keep_their_ids_on_the_next_import():
    text = HEADER + "2023-11-16 18:15:46,10,1\n" * 3
    store = OneTransaction()
    assert (batch(text).book(store).new, batch(text).book(store).already_there) == (3, 3)
    longer = batch(text + "2023-11-16 18:15:46,10,1\n").book(store)
    assert (longer.new, longer.already_there) == (1, 3)


def test_importing_again_under_another_model_changes_nothing():
    text = HEADER + "2023-11-16 18:15:46,10,1\n"
    store = OneTransaction()
    batch(text).book(store)
    before = dict(store.entries)
    assert batch(text, model="other").book(store).new == 0
    assert store.entries == before


def test_prices_are_those_of_the_chosen_instant():
    rows, bad = gather(read_rows([HEADER, "2023-11-16 18:15:46,10,1"], AZURE))
    for priced_at, expected in ((NOW, NOW), (None, 1_700_158_546_000)):
        prices = ListPrices()
        Batch(rows, bad, plan(priced_at_ms=priced_at), prices).look()
        assert prices.asked == {expected}


def test_an_unknown_price_is_counted_and_in_no_total():
    summary = batch(HEADER + "2023-11-16 18:15:46,10,1\n", model="mystery").look()
    assert (summary.amount, summary.unpriced, summary.unpriced_reasons) == (0, 1, ("unknown_model",))


def test_columns_of_any_csv_can_be_mapped_to_scope_and_cached_tokens():
    source = SOURCES["csv"]
    lines = ["time,input,cached,output,model,user,team\n", "2026-01-01T00:00:00Z,100,40,7,gpt-4o-mini,ada,ops\n"]
    rows, bad = gather(read_rows(lines, source))
    (entry,) = Batch(rows, bad, plan(source=source, model=""), ListPrices()).entries()
    assert entry.usage.parts[0].lines == (("input", 60), ("input_cache_read", 40), ("output", 7))
    assert entry.usage.parts[0].tier_basis == 100
    assert (entry.scope.user, entry.scope.team, entry.model) == ("ada", "ops", "gpt-4o-mini")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2023-11-16 18:15:46,-1,1", "a whole number of tokens"),
        ("2023-11-16 18:15:46,1.5,1", "a whole number of tokens"),
        ("2023-11-16 18:15:46,,1", "no value for input (column ContextTokens)"),
        ("2023-13-16 18:15:46,1,1", "month must be in 1..12"),
        ("yesterday,1,1", "a time such as"),
        ("2023-11-16 18:15:46,1", "has 2 columns; the header has 3"),
        ("2023-11-16 18:15:46,99999999999999,1", "a whole number of tokens"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_reason_and_the_others_are_kept(line, reason):
    good = "2023-11-16 18:15:46,1,1"
    rows, bad = gather(read_rows([HEADER, good + "\n", line + "\n", "\n", good + "\n"], AZURE))
    assert [row.line for row in rows] == [2, 5]
    assert [(row.line, reason in row.reason) for row in bad] == [(3, True)]


def test_a_relative_trace_needs_a_start():
    (bad,) = read_rows(['{"timestamp": 0, "input_length": 1, "output_length": 1}'], MOONCAKE)
    assert isinstance(bad, BadRow)
    assert "no start" in bad.reason


def test_cached_tokens_beyond_the_input_are_refused():
    (bad,) = read_rows(['{"time": 1700000000, "input": 1, "cached": 2, "output": 1}'], SOURCES["jsonl"])
    assert isinstance(bad, BadRow)
    assert "more than input" in bad.reason


def test_whole_numbers_are_seconds_or_milliseconds_since_1970():
    lines = ['{"time": 1700000000, "input": 1, "output": 1}', '{"time": "1700000000123", "input": 1, "output": 1}']
    assert [row.at_ms for row in read_rows(lines, SOURCES["jsonl"])] == [1_700_000_000_000, 1_700_000_000_123]


def test_times_with_a_zone_are_moved_to_utc():
    assert parse_time("2023-11-16T19:15:46.5+01:00") == parse_time("2023-11-16 18:15:46.500Z") == 1_700_158_546_500


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=6), st.sampled_from(sorted(SOURCES)))
def test_any_text_gives_rows_or_bad_rows_and_never_an_exception(lines, name):
    for one in read_rows([line + "\n" for line in lines], SOURCES[name], start_ms=0):
        assert isinstance(one, TraceRow | BadRow)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["time", "input", "cached", "output", "model", "blocks", "user"]),
        st.none()
        | st.booleans()
        | st.integers(-1, 2**70)
        | st.floats(allow_nan=False)
        | st.sampled_from(["2026-01-01 00:00:00", "1700000000", "0", "x", "٣"])
        | st.lists(st.integers() | st.text(max_size=3), max_size=3),
    )
)
def test_any_json_object_gives_a_row_or_a_bad_row_and_never_an_exception(cells):
    (one,) = read_rows([json.dumps(cells)], SOURCES["jsonl"])
    assert isinstance(one, TraceRow | BadRow)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20), st.data())
def test_every_import_of_a_part_then_the_whole_books_each_row_once(tokens, data):
    lines = [f"2023-11-16 18:15:46,{read},{written}\n" for read, written in tokens]
    part = data.draw(st.integers(0, len(lines)))
    store = OneTransaction()
    batch(HEADER + "".join(lines[:part])).book(store)
    batch(HEADER + "".join(lines)).book(store)
    assert len(store.entries) == len(lines)
    assert sum(e.charge.total or 0 for e in store.entries.values()) == sum(r * 150 + w * 600 for r, w in tokens)


@needs_data
def test_the_azure_trace_comes_in_whole_and_to_the_last_nano_dollar():
    path = Path(DATA) / "azure_llm_trace_2023_conv.csv"
    with path.open(newline="") as lines:
        rows, bad = gather(read_rows(lines, AZURE))
    store = OneTransaction()
    first = Batch(rows, bad, plan(), ListPrices()).book(store)
    with path.open(newline="") as lines:
        table = list(csv.DictReader(lines))
    expected = sum(int(row["ContextTokens"]) * 150 + int(row["GeneratedTokens"]) * 600 for row in table)
    assert (first.rows, first.bad, first.new, first.already_there) == (19_366, (), 19_366, 0)
    assert first.amount == expected == sum(entry.charge.total or 0 for entry in store.entries.values())
    before = dict(store.entries)
    again = Batch(rows, bad, plan(now_ms=NOW + 1), ListPrices()).book(store)
    assert (again.new, again.already_there, store.entries) == (0, 19_366, before)


@needs_data
def test_the_mooncake_trace_comes_in_whole_with_its_prefix_blocks():
    path = Path(DATA) / "mooncake_conversation_trace.jsonl"
    with path.open() as lines:
        rows, bad = gather(read_rows(lines, MOONCAKE, start_ms=NOW))
    with path.open() as lines:
        table = [json.loads(line) for line in lines]
    summary = Batch(rows, bad, plan(source=MOONCAKE), ListPrices()).look()
    assert (summary.rows, summary.bad) == (len(table), ())
    assert len(table) == 12_031
    assert summary.amount == sum(row["input_length"] * 150 + row["output_length"] * 600 for row in table)
    assert sum(len(row.blocks) for row in rows) == sum(len(row["hash_ids"]) for row in table)
    assert summary.last_ms == NOW + max(row["timestamp"] for row in table)
