"""Comparing a bill with the ledger: every part of the gap has a cause and an exact size, and they sum to the gap."""

from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.provider_report_rows import (
    BadReport,
    anthropic_rows,
    class_of,
    csv_rows,
    day_of,
    nusd,
    openai_rows,
)
from farthing.adapters.provider_reports import ProviderReports
from farthing.core.bill import (
    ALL,
    Bill,
    BilledCost,
    BilledUsage,
    Booked,
    BookedDay,
    Correctable,
    Estimate,
    Place,
    Priced,
    Reconciliation,
    allocate,
    folded,
    token_class,
    unit_of,
)
from farthing.core.errors import BadRequest
from farthing.core.reconciliation import compare
from farthing.core.units import UNITS
from farthing.insight.invoices import aligned
from farthing.insight.reports.reconcile import Sums, build, size

DAYS = ("2026-11-02", "2026-11-03", "2026-11-04")
PRICE = 2_500
"""Nano-USD a token."""


def place(day: int = 0, model: str = "gpt-4o") -> Place:
    return Place(DAYS[day], model, "")


def bill(
    *rows: tuple[Place, int, int | None], key: str = "", requests: int | None = None, price: int = PRICE
) -> Bill:
    """(place, input tokens, nano-USD or None for the price) as a bill."""
    return Bill(
        provider="openai",
        days=DAYS,
        usage=tuple(
            BilledUsage(place=at, counts=(("input", tokens),), key=key, requests=requests) for at, tokens, _ in rows
        ),
        costs=tuple(
            BilledCost(place=at, token_class="input", amount=tokens * price if amount is None else amount, key=key)
            for at, tokens, amount in rows
        ),
    )


def exact(tokens: int, amount: int | None = None, *, calls: int = 1, unpriced: int = 0, late: int = 0) -> BookedDay:
    sums = Priced(
        quantity=tokens,
        unpriced=unpriced,
        amount=tokens * PRICE if amount is None else amount,
        rows={("openai/gpt-4o/input", PRICE * 1000): tokens},
    )
    return BookedDay(calls=calls, exact={"input": sums}, late={"input": late} if late else {})


def an_estimate(id: str, tokens: int, *, ceiling: int | None = 10**12) -> Estimate:
    amount = tokens * PRICE
    return Estimate(id=id, counts=(("input", tokens),), amounts=(("input", amount),), total=amount, ceiling=ceiling)


def causes(found: Reconciliation) -> dict[str, tuple[int, int]]:
    sums: dict[str, tuple[int, int]] = {}
    for one in found.findings:
        tokens, amount = sums.get(one.cause, (0, 0))
        sums[one.cause] = (tokens + one.tokens, amount + one.amount)
    return sums


def test_a_bill_that_agrees_leaves_nothing_to_say():
    found = compare(bill((place(), 1000, None)), {place(): exact(1000)})
    assert found.findings == ()
    assert Sums(found).unnamed() == 0


def test_equal_tokens_at_other_money_are_a_price_with_its_row():
    found = compare(bill((place(), 1000, 3_000_000)), {place(): exact(1000)})
    assert causes(found) == {"price": (0, 500_000)}
    assert "billed $3.0000 / 1M, booked with openai/gpt-4o/input at $2.5000 / 1M" in found.findings[0].evidence


def test_a_nano_dollar_a_line_is_rounding():
    found = compare(bill((place(), 1000, 1000 * PRICE + 3)), {place(): exact(1000, calls=10)})
    assert causes(found) == {"rounding": (0, 3)}


def test_usage_booked_without_a_price_is_named_so():
    found = compare(bill((place(), 1000, None)), {place(): exact(1000, 600 * PRICE, unpriced=400)})
    assert causes(found) == {"unpriced": (0, 400 * PRICE)}


def test_traffic_on_other_keys_went_past_the_gateway():
    ours, theirs = bill((place(), 1000, None), key="ours"), bill((place(), 200, None), key="theirs")
    both = Bill(provider="openai", days=DAYS, usage=ours.usage + theirs.usage, costs=ours.costs + theirs.costs)
    found = compare(both, {place(): exact(1000)}, gateway_keys=frozenset({"ours"}))
    assert causes(found) == {"bypass": (200, 200 * PRICE)}


def test_the_money_of_other_keys_is_split_by_tokens_where_costs_name_no_key():
    ours, theirs = bill((place(), 1000, None), key="ours"), bill((place(), 200, None), key="theirs")
    cost = BilledCost(place=place(), token_class="input", amount=1200 * PRICE)
    both = Bill(provider="anthropic", days=DAYS, usage=ours.usage + theirs.usage, costs=(cost,))
    found = compare(both, {place(): exact(1000)}, gateway_keys=frozenset({"ours"}))
    assert causes(found) == {"bypass": (200, 200 * PRICE)}


def test_a_model_the_gateway_never_called_went_past_it():
    found = compare(bill((place(), 10, None), (place(model="o3"), 70, None)), {place(): exact(10)})
    assert causes(found) == {"bypass": (70, 70 * PRICE)}
    assert "the gateway never called o3" in found.findings[0].evidence


@pytest.mark.parametrize(("home", "away"), [(0, 1), (1, 0)])
def test_a_whole_day_on_the_neighbouring_day_is_timing(home: int, away: int):
    billed = bill((place(away), 1500, None))
    found = compare(billed, {place(home): exact(1000), place(away): exact(500)})
    assert causes(found) == {"timing": (0, 0)}
    assert size(one.tokens for one in found.findings) == 1000
    assert size(one.amount for one in found.findings) == 1000 * PRICE
    assert f"the whole day: booked on {DAYS[home]}, billed on {DAYS[away]}" in found.findings[0].evidence


def test_calls_close_to_midnight_may_be_billed_the_day_after_and_no_others():
    billed = bill((place(0), 970, None), (place(1), 530, None))
    near = compare(billed, {place(0): exact(1000, late=30), place(1): exact(500)})
    assert set(causes(near)) == {"timing"}
    some = compare(billed, {place(0): exact(1000, late=20), place(1): exact(500)})
    assert size(one.tokens for one in some.findings if one.cause == "timing") == 20
    assert size(one.tokens for one in some.findings if one.cause == "unknown") == 10
    none = compare(billed, {place(0): exact(1000), place(1): exact(500)})
    assert "timing" not in causes(none)


def test_what_is_missing_beside_an_estimate_belongs_to_it_and_can_be_corrected():
    day = exact(1000)
    day.estimates = [an_estimate("x", 100), an_estimate("y", 300)]
    found = compare(bill((place(), 1480, None)), {place(): day})
    assert causes(found) == {"estimated": (80, 80 * PRICE)}
    (one,) = found.correctable
    assert [share["input"] for share in one.shares()] == [120 * PRICE, 360 * PRICE]


def test_an_estimate_cannot_explain_more_than_its_call_can_have_cost():
    day = exact(1000)
    day.estimates = [an_estimate("x", 100, ceiling=150 * PRICE)]
    found = compare(bill((place(), 1200, None)), {place(): day})
    assert causes(found) == {"estimated": (50, 50 * PRICE), "unknown": (50, 50 * PRICE)}
    assert found.correctable == ()


def test_an_estimated_call_that_was_never_billed_explains_no_more_than_itself():
    day = exact(1000)
    day.estimates = [an_estimate("x", 100)]
    found = compare(bill((place(), 950, None)), {place(): day})
    assert causes(found)["estimated"] == (-100, -100 * PRICE)
    assert causes(found)["unknown"] == (-50, -50 * PRICE)


def test_more_requests_than_the_ledger_has_are_calls_past_the_gateway():
    found = compare(bill((place(), 1200, None), requests=12), {place(): exact(1000, calls=10)})
    assert causes(found) == {"bypass": (200, 200 * PRICE)}
    assert "2 requests more than the ledger" in found.findings[0].evidence


def test_a_surplus_without_any_evidence_is_unknown_and_fails_the_tolerance():
    found = compare(bill((place(), 1010, None)), {place(): exact(1000)})
    assert causes(found) == {"unknown": (10, 10 * PRICE)}
    assert Sums(found).unnamed() * 1010 == 10
    table = build(found, provider="openai")
    assert [row[0].strip() for row in table.rows][-2:] == ["named", "unnamed"]
    assert table.rows[-1][1:5] == (10, 10, 10 * PRICE, 10 * PRICE)


def test_unknown_parts_never_cancel_each_other_out():
    found = compare(
        bill((place(0), 1010, None), (place(2), 990, None)), {place(0): exact(1000), place(2): exact(1000)}
    )
    assert causes(found)["unknown"] == (0, 0)
    assert Sums(found).unnamed() * 2000 == 20


def test_money_back_is_a_credit():
    credit = BilledCost(place=Place(DAYS[0], "", ""), token_class="credit", amount=-700, label="promotional credit")
    given = bill((place(), 10, None))
    found = compare(
        Bill(provider="openai", days=DAYS, usage=given.usage, costs=(*given.costs, credit)), {place(): exact(10)}
    )
    assert causes(found) == {"credit": (0, -700)}


def test_the_same_ratio_on_every_model_is_a_discount_and_not_a_drift():
    rows = [(place(0, "a"), 1000, 1000 * PRICE * 9 // 10), (place(1, "b"), 4000, 4000 * PRICE * 9 // 10)]
    found = compare(bill(*rows), {at: exact(tokens) for at, tokens, _ in rows})
    assert causes(found) == {"credit": (0, -500 * PRICE)}
    assert "10.00 % below the price book on every model" in found.findings[0].evidence


def test_a_bill_without_costs_compares_tokens_and_says_so():
    given = Bill(provider="openai", days=DAYS, usage=bill((place(), 12, None)).usage)
    found = compare(given, {place(): exact(10)})
    assert causes(found) == {"unknown": (2, 0)}
    assert "no cost report" in found.notes[0]
    assert build(found, provider="openai").rows[0][3] is None


# -- what always holds --------------------------------------------------------------------------------------------

places = st.builds(Place, st.sampled_from(DAYS), st.sampled_from(["a", "b"]), st.just(""))
classes = st.sampled_from(["input", "cache_read", "output"])
count = st.integers(0, 10**6)
money = st.integers(0, 10**10)
keys = st.sampled_from(["", "ours", "theirs"])


def booked_day(calls: int, found: dict, estimates: list, early: dict, late: dict) -> BookedDay:
    sums = {
        name: Priced(
            quantity=tokens, amount=amount, unpriced=min(unpriced, tokens), rows={(f"row/{name}", 5): tokens}
        )
        for name, (tokens, amount, unpriced) in found.items()
    }
    calls_made = [
        Estimate(
            id=str(number),
            counts=tuple(counts.items()),
            amounts=tuple((name, tokens * 3) for name, tokens in counts.items()),
            total=sum(tokens * 3 for tokens in counts.values()),
            ceiling=ceiling,
        )
        for number, (counts, ceiling) in enumerate(estimates)
    ]
    return BookedDay(calls=calls + len(calls_made), exact=sums, estimates=calls_made, early=early, late=late)


booked_days = st.builds(
    booked_day,
    st.integers(0, 50),
    st.dictionaries(classes, st.tuples(count, money, count), max_size=3),
    st.lists(st.tuples(st.dictionaries(classes, count, max_size=2), st.none() | money), max_size=2),
    st.dictionaries(classes, count, max_size=2),
    st.dictionaries(classes, count, max_size=2),
)
billed_usage = st.builds(
    BilledUsage,
    place=places,
    counts=st.dictionaries(classes, count, max_size=3).map(lambda found: tuple(found.items())),
    requests=st.none() | st.integers(0, 60),
    key=keys,
)
billed_cost = st.builds(BilledCost, place=places, token_class=classes, amount=st.integers(-(10**9), 10**10), key=keys)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(billed_usage, max_size=8),
    st.lists(billed_cost, max_size=8),
    st.dictionaries(places, booked_days, max_size=6),
    st.sampled_from([frozenset(), frozenset({"ours"})]),
)
def test_the_findings_of_every_line_sum_to_its_gap_exactly(usage, costs, booked: Booked, gateway_keys):
    given_bill = Bill(provider="openai", days=DAYS, usage=tuple(usage), costs=tuple(costs))
    found = compare(given_bill, booked, gateway_keys=gateway_keys)
    tokens: dict = defaultdict(int)
    amounts: dict = defaultdict(int)
    for one in found.findings:
        tokens[one.place, one.token_class] += one.tokens
        amounts[one.place, one.token_class] += one.amount
    for line in found.lines:
        if usage:
            assert tokens[line.place, line.token_class] == line.billed - line.booked
        if costs:
            assert amounts[line.place, line.token_class] == line.billed_amount - line.booked_amount
    assert sum(line.billed for line in found.lines) == sum(n for row in usage for _, n in row.counts)
    assert sum(line.billed_amount for line in found.lines) == sum(row.amount for row in costs)
    timing: dict = defaultdict(int)
    for one in found.findings:
        if one.cause == "timing":
            timing[one.place.model, one.token_class] += one.tokens
    assert not any(timing.values()), "what one day lacks, another has"
    for one in found.correctable:
        assert sum(sum(share.values()) for share in one.shares()) == sum(amount for _, amount in one.billed)


@settings(max_examples=300, deadline=None)
@given(st.integers(-(10**15), 10**15), st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=9))
def test_parts_sum_to_the_whole_and_are_within_one_of_their_share(total, weights):
    parts = allocate(total, weights)
    assert sum(parts) == total
    shares = [abs(weight) for weight in weights] if any(weights) else [1] * len(weights)
    for part, share in zip(parts, shares, strict=True):
        assert abs(part * sum(shares) - total * share) < sum(shares)


def test_shares_that_already_fit_stay_as_they_are():
    calls = tuple(an_estimate(name, tokens) for name, tokens in (("x", 7), ("y", 11)))
    one = Correctable(place=place(), billed=(("input", 18 * PRICE),), calls=calls)
    assert [share["input"] for share in one.shares()] == [7 * PRICE, 11 * PRICE]


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_every_unit_has_a_class_and_a_class_its_unit_back(unit: str):
    assert token_class(unit_of(token_class(unit))) == token_class(unit)


def test_ledger_classes_fold_into_those_of_the_bill():
    assert folded("cache_write_30m", {"input", "cache_write"}) == "cache_write"
    assert folded("cache_write", {"cache_write_5m", "cache_write_1h"}) == "cache_write_5m"
    assert folded("cache_write_1h", {"cache_write_5m", "cache_write_1h"}) == "cache_write_1h"
    assert folded("output", {ALL}) == ALL
    assert folded("web_search", {ALL}) == "web_search"


# -- reading bills ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input", "input"),
        ("cached input", "cache_read"),
        ("cache write", "cache_write"),
        ("uncached_input_tokens", "input"),
        ("cache_read_input_tokens", "cache_read"),
        ("cache_creation.ephemeral_1h_input_tokens", "cache_write_1h"),
        ("Input Tokens, Cache Write 5m", "cache_write_5m"),
        ("output_tokens", "output"),
        ("web search tool calls", "web_search"),
        ("Promotional credit", "credit"),
        ("mystery", "mystery"),
    ],
)
def test_the_providers_words_for_classes_are_understood(text: str, expected: str):
    assert class_of(text) == expected


def test_openai_pages_become_rows_with_disjoint_classes():
    usage = {
        "object": "organization.usage.completions.result",
        "input_tokens": 1000,
        "input_cached_tokens": 300,
        "output_tokens": 50,
        "num_model_requests": 4,
        "model": "gpt-4o-2024-08-06",
        "api_key_id": "key_1",
        "batch": True,
    }
    cost = {"amount": {"value": "0.1200000001234", "currency": "usd"}, "line_item": "gpt-4o-2024-08-06, cached input"}
    pages = [{"data": [{"start_time": 1_793_577_600, "results": [usage, cost]}]}]
    first, second = openai_rows(pages)
    assert isinstance(first, BilledUsage)
    assert first.place == Place("2026-11-02", "gpt-4o-2024-08-06", "batch")
    assert dict(first.counts) == {"input": 700, "cache_read": 300, "output": 50}
    assert (first.requests, first.key) == (4, "key_1")
    assert isinstance(second, BilledCost)
    assert (second.token_class, second.amount) == ("cache_read", 120_000_000)


def test_anthropic_amounts_are_cents():
    cost = {
        "currency": "USD",
        "amount": "123.45",
        "model": "claude-opus-4-6",
        "token_type": "output_tokens",
        "service_tier": "standard",
        "inference_geo": "us",
        "context_window": "200k-1M",
    }
    (row,) = anthropic_rows([{"data": [{"starting_at": "2026-11-02T00:00:00Z", "results": [cost]}]}])
    assert isinstance(row, BilledCost)
    assert row.amount == 1_234_500_000
    assert row.place == Place("2026-11-02", "claude-opus-4-6", "us+long")


def test_any_bill_as_csv_is_read_by_a_map_of_its_columns():
    lines = [
        "Date,Product,Kind,Used,Price",
        '2026-11-02T23:30:00-05:00,gpt-4o,Output,"1,200",$0.012',
        ",total,,,$0.012",
    ]
    columns = {"day": "Date", "model": "Product", "class": "Kind", "quantity": "Used", "amount": "Price"}
    usage, cost = csv_rows(lines, columns)
    assert usage == BilledUsage(place=Place("2026-11-03", "gpt-4o", ""), counts=(("output", 1200),))
    assert isinstance(cost, BilledCost)
    assert (cost.amount, cost.token_class) == (12_000_000, "output")


def test_a_bill_with_one_column_a_class_and_one_amount_is_compared_as_a_whole():
    lines = ["d,m,in,out,usd", "2026-11-02,gpt-4o,900,100,0.003"]
    rows = list(csv_rows(lines, {"day": "d", "model": "m", "input": "in", "output": "out", "amount": "usd"}))
    given = Bill(
        provider="csv",
        days=DAYS,
        usage=tuple(row for row in rows if isinstance(row, BilledUsage)),
        costs=tuple(row for row in rows if isinstance(row, BilledCost)),
    )
    whole, terms = aligned(given, str, midnight_ms=0)
    assert whole.usage[0].counts == ((ALL, 1000),)
    assert terms.classes == {ALL}


def test_tiers_that_only_one_report_knows_are_put_together():
    usage = BilledUsage(place=Place(DAYS[0], "m", "flex"), counts=(("input", 5),))
    cost = BilledCost(place=Place(DAYS[0], "m", ""), token_class="input", amount=5)
    whole, terms = aligned(Bill(provider="openai", days=DAYS, usage=(usage,), costs=(cost,)), str, midnight_ms=0)
    assert not terms.variants
    assert whole.usage[0].place == whole.costs[0].place


@pytest.mark.parametrize("text", ["x", "nan", "1e400x", "0,45", "1234,56", "1,23,456", "12,3456"])
def test_amounts_that_are_none_are_refused(text: str):
    with pytest.raises(BadReport, match="is not an amount"):
        nusd(text)


def test_commas_between_thousands_are_none_in_the_amount():
    assert nusd("-$1,234,567.891") == -1_234_567_891_000_000
    assert nusd("1e-05") == 10_000


def test_a_bill_with_semicolons_has_decimal_commas():
    lines = [
        "Date;Product;Kind;Used;Price",
        "2026-11-02;gpt-4o;Output;1200;1.234,5067",
        "2026-11-02;x;Input;7;0,0004",
    ]
    columns = {"day": "Date", "model": "Product", "class": "Kind", "quantity": "Used", "amount": "Price"}
    amounts = [row.amount for row in csv_rows(lines, columns) if isinstance(row, BilledCost)]
    assert amounts == [1_234_506_700_000, 400_000]
    with pytest.raises(BadReport, match="line 2"):
        list(csv_rows([lines[0], "2026-11-02;gpt-4o;Output;1,2;1"], columns))


def test_a_bill_that_is_not_utf_8_is_named(tmp_path: Path):
    path = tmp_path / "bill.csv"
    path.write_bytes("day,model,amount\n2026-11-02,béton,1\n".encode("cp1252"))
    with pytest.raises(BadRequest, match=r"bill\.csv is not UTF-8"):
        ProviderReports().from_files("csv", [path], since_ms=0, until_ms=1, columns={"day": "day"})


def test_days_are_read_in_utc():
    assert day_of(1_793_577_600) == day_of("2026-11-02") == day_of("2026-11-01T20:00:00-05:00") == "2026-11-02"
    with pytest.raises(BadReport, match="is not a day"):
        day_of("last week")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "neither JSON nor JSON Lines"), ("[1]", 'an object with a "data" list'), ('{"rows": []}', '"data" list')],
)
def test_a_file_that_is_no_report_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "page.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadRequest, match=message) as caught:
        ProviderReports().from_files("openai", (path,), since_ms=0, until_ms=86_400_000, columns={})
    assert str(path) in str(caught.value)


def test_a_map_without_the_day_is_refused_with_all_fields(tmp_path: Path):
    path = tmp_path / "bill.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    reports = ProviderReports()
    with pytest.raises(BadRequest, match="the column of the day is not given"):
        reports.from_files("csv", (path,), since_ms=0, until_ms=86_400_000, columns={"amount": "a"})
    with pytest.raises(BadRequest, match="has no column c; it has a, b"):
        reports.from_files("csv", (path,), since_ms=0, until_ms=86_400_000, columns={"day": "c"})


def test_an_admin_key_is_only_sent_over_https():
    with pytest.raises(BadRequest, match="only sent over https"):
        ProviderReports().fetch("openai", "http://reports.example.com", "sk", since_ms=0, until_ms=86_400_000)
