"""Reports: exact sums, honest gaps, one renderer for people and programs."""

import csv
import io
import json
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.money import Nusd, Pusd
from farthing.core.policy import Budget
from farthing.core.types import Charge, ChargeLine, Decision, Exchange, LedgerEntry, PromptView, Scope, Totals, Usage
from farthing.insight import budget_counters, receipt
from farthing.insight.moments import iso, parse_moment, shown
from farthing.insight.render import percent, render, usd
from farthing.insight.reports import budget_status, comparison, metrics, sessions, spend
from farthing.insight.table import Column, Money, Table, per, share
from farthing.ports.books import Balance

NOW = 1_795_255_200_000  # 2026-11-21T10:00:00Z

ROWS = (
    Totals(group=("ops",), requests=2, entries=3, amount=250_000_000, input_tokens=10, output_tokens=5),
    Totals(
        group=("search",),
        requests=4,
        entries=4,
        amount=750_000_000,
        estimated=1,
        estimated_amount=50_000_000,
        input_tokens=90,
        cache_read_tokens=30,
        output_tokens=15,
    ),
    Totals(group=("",), requests=1, entries=1, unpriced=1, input_tokens=7),
)
WHOLE = (Totals(requests=6, entries=8, amount=1_000_000_000, unpriced=1),)


def test_spend_is_largest_first_with_a_total_and_unknown_costs_apart():
    text = render(spend.build(ROWS, WHOLE, ("team",)), "table")
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[4:7]] == ["search", "ops", "(none)"]
    assert lines[8].split() == [
        "total",
        "6",
        "8",
        "107",
        "30",
        "20",
        "$1.000000",
        "100.00%",
        "$0.19047619",
        "$0.050000",
        "1",
    ]
    assert "Not in any cost: 1 entry without a known price" in text
    assert "Estimated: $0.050000 of the cost rests on 1 entry" in text


def test_requests_without_a_price_are_in_no_cost_per_request():
    half = Totals(group=("a",), requests=10, entries=10, amount=600, unpriced=4)
    nothing = Totals(group=("b",), requests=3, entries=3, unpriced=3)
    for build in (
        spend.build((half, nothing), (half,), ("team",)),
        comparison.build((half, nothing), (), ("team",), whole=((half,), ())),
        metrics.build((half, nothing), ("team",), None),
        sessions.build(tuple(msgspec.structs.replace(one, group=(one.group[0], "", "")) for one in (half, nothing))),
    ):
        place = [column.title for column in build.columns].index("per request")
        assert {row[0]: row[place] for row in build.rows} == {"a": 100, "b": None}
        assert any("nor do costs per request divide by them" in note for note in build.notes)
    found = metrics.six(metrics.Six(now=nothing, before=half, cheap_requests=0, cost_per_request_max=1), cheap="$1")
    assert found.rows[0] == ("cost per request", None, Money(100), Money(1), None)
    assert found.rows[1][1] is None, "no price is no falling price"


def test_a_limit_sums_the_rest_in_one_row_and_keeps_the_total():
    table = spend.build(ROWS, WHOLE, ("team",), limit=1)
    assert [row[0] for row in table.rows] == ["search", "(other: 2)"]
    assert table.rows[1][1] is None, "requests of groups may overlap, so their sum is not known"
    assert table.total == spend.build(ROWS, WHOLE, ("team",)).total


def test_groups_of_time_stand_in_order_of_time():
    rows = (Totals(group=("2026-11-02",), amount=1, entries=1), Totals(group=("2026-11-01",), amount=9, entries=1))
    assert next(row[0] for row in spend.build(rows, WHOLE, ("day",)).rows) == "2026-11-01"


def test_json_carries_exact_strings_and_integers_and_no_floats():
    text = render(spend.build(ROWS, WHOLE, ("team",)), "json")
    found = json.loads(text, parse_float=lambda number: pytest.fail(f"a float: {number}"))
    assert found["rows"][0]["cost_usd"] == "0.750000000"
    assert found["rows"][0]["cost_nusd"] == 750_000_000
    assert found["rows"][2]["cost_usd"] is None
    assert found["total"]["cost_per_request_usd"] == "0.190476190"
    assert found["rows"][0]["share_percent"] == "75.00"


def test_csv_is_read_back_and_cannot_start_a_formula():
    rows = (Totals(group=('=cmd("x")',), requests=1, entries=1, amount=1),)
    found = list(csv.DictReader(io.StringIO(render(spend.build(rows, rows, ("team",)), "csv"))))
    assert found[0]["team"] == '\'=cmd("x")'
    assert found[0]["cost_usd"] == "0.000000001"


def test_markdown_escapes_what_would_break_a_row():
    table = Table(title="T", columns=(Column(name="a", title="a"),), rows=(("x|y",),))
    assert render(table, "md") == "### T\n\n| a |\n| :--- |\n| x\\|y |"


def test_stored_names_cannot_steer_a_terminal():
    table = Table(title="T", columns=(Column(name="a", title="a"),), rows=(("\x1b[31mred\n",),))
    assert "\x1b" not in render(table, "table")


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "$0.000000"), (1, "$0.000000001"), (1_234_567_890_000, "$1,234.567890"), (-1_500_000_000, "-$1.500000")],
)
def test_dollars_show_six_decimals_and_all_that_count(amount, text):
    assert usd(amount) == text


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_dollars_for_people_lose_nothing(amount):
    text = usd(amount).replace("$", "").replace(",", "")
    assert Fraction(text) * 10**9 == amount


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 5)), min_size=1, max_size=8))
def test_rows_and_other_add_up_to_the_total(values):
    rows = tuple(
        Totals(group=(str(n),), requests=1, entries=1 + u, amount=a, unpriced=u) for n, (a, u) in enumerate(values)
    )
    table = spend.build(rows, rows[:1], ("team",), limit=3)
    cost_at = [column.name for column in table.columns].index("cost")
    assert table.total is not None
    assert sum(row[cost_at] or 0 for row in table.rows) == (table.total[cost_at] or 0) == sum(a for a, _ in values)


def test_shares_and_unit_costs_round_half_even_and_never_divide_by_zero():
    assert (share(1, 3), share(2, 3), share(1, 0)) == (3333, 6667, None)
    assert share(-1, 4) == -2500
    assert (per(5, 2), per(7, 2), per(None, 2), per(5, 0)) == (2, 4, None, None)
    assert (percent(5), percent(-12345)) == ("0.05", "-123.45")


def test_a_comparison_asks_for_the_equal_period_before_and_ranks_by_change():
    now, before = comparison.queries(("team",), since_ms=1000, until_ms=1600)
    assert (now.since_ms, now.until_ms, before.since_ms, before.until_ms) == (1000, 1600, 400, 1000)
    current = (
        Totals(group=("a",), requests=1, entries=1, amount=150),
        Totals(group=("b",), requests=1, entries=1, amount=900),
    )
    earlier = (
        Totals(group=("a",), requests=1, entries=1, amount=100),
        Totals(group=("c",), requests=2, entries=2, amount=400),
    )
    table = comparison.build(current, earlier, ("team",), whole=(WHOLE, WHOLE))
    change = [column.name for column in table.columns].index("change")
    assert [(row[0], row[change], row[change + 1]) for row in table.rows] == [
        ("b", 900, None),
        ("c", -400, -10_000),
        ("a", 50, 5_000),
    ]


def test_a_budget_shows_used_held_and_left_in_its_own_units():
    month = Budget(name="m", per="month", limits=(("usd", 10_000_000_000), ("tokens", 100)), match=(("team", "x"),))
    frames = budget_counters.frames_of(month, NOW)
    assert budget_counters.queries(month, frames[0][0]) == ()
    found = budget_counters.counters(month, frames, ())
    balances = (Balance(counter="m", window="2026-11", unit="usd", posted=9_000_000_000, held=1_000_000_000),)
    table = budget_status.build(found, balances, now_ms=NOW)
    usd_row, token_row = table.rows
    assert usd_row == (
        "m",
        "team=x",
        "2026-11",
        "usd",
        Money(9_000_000_000),
        Money(1_000_000_000),
        Money(10_000_000_000),
        Money(0),
        9_000,
        Money(440_816_327),
        "2026-12-01 00:00:00",
        "used up",
    )
    assert token_row[4:8] == (0, 0, 100, 100)
    assert json.loads(render(table, "json"))["rows"][0]["used"] == "9.000000000"


def test_a_budget_per_user_has_a_row_for_every_user_with_a_balance():
    each = Budget(name="u", per="day", limits=(("requests", 10),), each=("user",), hard=False)
    frames = budget_counters.frames_of(each, NOW)
    (query,) = budget_counters.queries(each, frames[0][0])
    assert (query.group_by, query.since_ms) == (("user",), NOW - 10 * 3_600_000)
    found = budget_counters.counters(
        each, frames, (Totals(group=("ada",)), Totals(group=("",)), Totals(group=("bob",)))
    )
    balances = tuple(
        Balance(counter=one.counter, window="2026-11-21", unit="requests", posted=n, held=0)
        for n, one in ((12, found[1]), (3, found[0]))
    )
    rows = budget_status.build(found, balances).rows
    assert [(row[1], row[4], row[7], row[11]) for row in rows] == [
        ("user=ada", 12, -2, "passed (soft)"),
        ("user=(none)", 3, 7, "open (soft)"),
    ]


def test_limits_per_request_are_listed_without_a_counter():
    budget = Budget(name="call", per="request", limits=(("input_tokens", 8000),))
    assert budget_counters.frames_of(budget, NOW) == ()
    assert budget_status.build((), (), [budget]).rows[0][:7] == (
        "call",
        "everything",
        "request",
        "input_tokens",
        None,
        None,
        8000,
    )


ENTRY = LedgerEntry(
    id="r1.1",
    request_id="r1",
    attempt=1,
    received_at_ms=NOW,
    booked_at_ms=NOW + 900,
    scope=Scope(team="search", tags=(("env", "prod"),)),
    dialect="openai",
    endpoint="chat",
    provider="openai",
    price_as="openai",
    model_requested="gpt-4o",
    model="gpt-4o-2024-08-06",
    usage=Usage(source="partial", raw=b'{"prompt_tokens":1000}', anomalies=("total_tokens:1≠2",)),
    charge=Charge(
        lines=(
            ChargeLine(
                unit="input",
                quantity=1000,
                price=Pusd(2_500_000),
                amount=Nusd(1_375_000),
                multipliers=(("batch", 5_000), ("region", 11_000)),
                row="openai/gpt-4o@2024-08-06",
            ),
            ChargeLine(unit="web_search", quantity=1, price=Pusd(10_000_000_000), amount=Nusd(10_000_000)),
        ),
        total=Nusd(11_375_000),
        state="priced",
        price_ref="abc",
    ),
    baseline=Nusd(20_000_000),
    ceiling=Nusd(30_000_000),
    policy_ref="p1",
    decisions=(Decision(stage="route", action="send", reason="primary", evidence=(("provider", "openai"),)),),
)


def test_a_receipt_spells_every_line_so_that_it_can_be_redone_by_hand():
    text = receipt.as_text([ENTRY], None)
    assert "input  1,000 × $2.50 / 1M × 0.5 (batch) × 1.1 (region) = $0.001375   openai/gpt-4o@2024-08-06" in text
    assert "web_search  1 × $0.01 each = $0.010000" in text
    assert "total $0.011375" in text
    assert "baseline $0.020000 without optimisation, saved $0.008625 (exact)" in text
    assert "partial: a stream that ended early" in text
    assert 'raw      {"prompt_tokens":1000}' in text
    assert "the provider's numbers disagree: total_tokens:1≠2" in text
    assert "decided  route: send, primary (provider openai)" in text
    assert "scope    team=search, tag:env=prod" in text


def test_a_receipt_says_who_counted_what_the_provider_left_out():
    def said(**changes: object) -> str:
        usage = msgspec.structs.replace(ENTRY.usage, **changes)
        return receipt.as_text([msgspec.structs.replace(ENTRY, usage=usage)], None)

    assert "estimated: counted by Farthing where the provider did not say it" in said(source="estimated")
    assert "estimated: counted by Farthing, because the provider said nothing" in said(source="estimated", raw=b"")
    assert "what the provider had said, and what arrived counted by Farthing" in said(source="partial")


def test_a_receipt_names_the_second_bill_of_a_callers_own_key():
    facets = (("byok", "true"), ("byok_upstream_pusd", "20000000000"))
    usage = msgspec.structs.replace(ENTRY.usage, facets=facets)
    text = receipt.as_text([msgspec.structs.replace(ENTRY, usage=usage)], None)
    assert "besides  $0.020000 billed by the upstream provider on the caller's own key: in no total here" in text
    assert "besides" not in receipt.as_text([ENTRY], None)


def test_an_unpriced_receipt_never_shows_zero():
    charge = Charge(lines=(ChargeLine(unit="input", quantity=5, price=None, amount=None),), reason="unknown_model")
    entry = LedgerEntry(**{name: getattr(ENTRY, name) for name in ENTRY.__struct_fields__} | {"charge": charge})
    text = receipt.as_text([entry, ENTRY], None)
    assert "input  5 × unknown price" in text
    assert "unpriced: unknown_model; this entry is in no total" in text
    assert "Together: $0.011375 and 1 without a known price in 2 entries" in text
    found = json.loads(receipt.as_json([entry], None))["entries"][0]
    assert (found["total_usd"], found["total_nusd"], found["state"]) == (None, None, "unpriced")
    assert (found["reason"], found["source"]) == ("unknown_model", "partial")


def test_a_refused_request_has_a_receipt_without_entries_and_without_its_prompt():
    exchange = Exchange(
        request_id="r2",
        received_at_ms=NOW,
        scope=Scope(),
        dialect="openai",
        view=PromptView(endpoint="chat", model="gpt-4o"),
        outcome="refused",
        status=429,
        error="budget_exceeded",
        prompt=b"my secret question",
    )
    text = receipt.as_text([], exchange)
    assert "refused (429, budget_exceeded)" in text
    assert "Nothing was billed" in text
    assert b"secret question" not in receipt.as_json([], exchange)


def test_moments_are_read_in_utc_and_shown_as_written():
    assert parse_moment("30d", now_ms=NOW) == NOW - 30 * 86_400_000
    assert parse_moment("2026-11", now_ms=NOW) == parse_moment("2026-11-01T00:00Z", now_ms=NOW)
    assert shown(parse_moment("2026-11-21T11:00:00.250+01:00", now_ms=NOW)) == "2026-11-21 10:00:00.250"
    assert iso(NOW) == "2026-11-21T10:00:00.000Z"
    assert parse_moment("today", now_ms=NOW) == NOW - 10 * 3_600_000
    with pytest.raises(ValueError, match="write for example"):
        parse_moment("last week", now_ms=NOW)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_moment_or_a_value_error(text):
    try:
        found = parse_moment(text, now_ms=NOW)
    except ValueError:
        return
    assert isinstance(found, int)
