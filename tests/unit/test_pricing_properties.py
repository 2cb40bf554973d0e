"""What must hold for every model of the book and any usage: sums, order, ceilings, a slow reference."""

from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.price_feeds import BookPrices, load_book
from farthing.core.price_book import PriceBook, Resolved
from farthing.core.pricing import charge
from farthing.core.pricing_ceiling import USES_ASSUMED
from farthing.core.types import Bounds, Charge, Target, Usage, UsagePart
from farthing.core.units import UNITS

BOOK = load_book().book
PRICES = BookPrices(BOOK)
MODELS = [entry for entry in BOOK.models() if BOOK.resolve(entry.provider, entry.id) is not None]
AT = st.integers(min_value=1_735_689_600_000, max_value=1_798_761_600_000)  # 2025 and 2026
TOKENS = st.integers(min_value=0, max_value=600_000)
TEXT = ("input", "input_tool", "input_cache_read")
WRITES = ("input_cache_write", "input_cache_write_5m", "input_cache_write_30m")
LONG = ("input_cache_write_1h", "input_cache_write_12h")
MEDIA = (
    "input_audio",
    "input_audio_cache_read",
    "input_image",
    "input_image_cache_read",
    "input_video",
    "input_document",
)
OUTPUT = ("output", "output_reasoning", "output_prediction_rejected", "output_audio", "output_image")
TOOLS = {
    "web_search": "web_search",
    "file_search": "file_search",
    "code_interpreter": "code_session",
    "web_fetch": "web_fetch",
}

entries = st.sampled_from(MODELS)


def target(entry) -> Target:
    return Target(provider=entry.provider, price_as=entry.provider, model=entry.id)


def usage(
    lines: dict[str, int], *, tier: str = "", facets: tuple[tuple[str, str], ...] = (), basis: int = 0
) -> Usage:
    part = UsagePart(lines=tuple((unit, quantity) for unit, quantity in lines.items() if quantity), tier_basis=basis)
    return Usage(parts=(part,), source="reported", service_tier=tier, facets=facets)


@settings(max_examples=400, deadline=None)
@given(entry=entries, at=AT, first=TOKENS, second=TOKENS, out=TOKENS, basis=TOKENS)
def test_a_split_usage_costs_the_same_but_for_one_rounding_per_line(entry, at, first, second, out, basis):
    def part(tokens: int, output: int) -> UsagePart:
        return UsagePart(lines=(("input", tokens), ("output", output)), tier_basis=basis)

    whole = charge(BOOK, Usage(parts=(part(first + second, out),), source="reported"), target(entry), at_ms=at)
    split = charge(BOOK, Usage(parts=(part(first, out), part(second, 0)), source="reported"), target(entry), at_ms=at)
    assert (whole.total is None) == (split.total is None) or 0 in (first, second, out)
    if whole.total is not None and split.total is not None:
        assert abs(whole.total - split.total) <= 3


@settings(max_examples=400, deadline=None)
@given(
    entry=entries,
    at=AT,
    lines=st.dictionaries(st.sampled_from((*TEXT, *WRITES, "output")), TOKENS),
    more=TOKENS,
    basis=TOKENS,
    data=st.data(),
)
def test_more_of_a_unit_never_costs_less(entry, at, lines, more, basis, data):
    if not lines:
        return
    unit = data.draw(st.sampled_from(sorted(lines)))
    before = charge(BOOK, usage(lines, basis=basis), target(entry), at_ms=at)
    after = charge(BOOK, usage({**lines, unit: lines[unit] + more}, basis=basis), target(entry), at_ms=at)
    if before.total is not None and after.total is not None:
        assert after.total >= before.total


@settings(max_examples=200, deadline=None)
@given(
    entry=entries,
    instants=st.lists(AT, min_size=2, max_size=6),
    lines=st.dictionaries(st.sampled_from((*TEXT, "output")), TOKENS),
)
def test_repricing_gives_the_same_charge_whatever_was_priced_in_between(entry, instants, lines):
    record = usage(lines, basis=sum(lines.values()))
    warm = [charge(BOOK, record, target(entry), at_ms=at) for at in instants]
    assert [charge(BOOK, record, target(entry), at_ms=at) for at in reversed(instants)] == warm[::-1]
    saved = dict(BOOK.memo)
    BOOK.memo.clear()
    assert [charge(BOOK, record, target(entry), at_ms=at) for at in instants] == warm
    BOOK.memo.update(saved)


def reference(book: PriceBook, record: Usage, entry, at: int) -> Fraction | None:
    """The cost from the rows themselves, in exact fractions; only units with rows of their own."""
    total = Fraction(0)
    for part in record.parts:
        for unit, quantity in part.lines:
            rows = [
                row
                for row in book.rows(entry.provider, entry.id)
                if row.unit == unit
                and not row.when
                and not row.schedule
                and (row.valid_from_ms is None or row.valid_from_ms <= at)
                and (row.valid_to_ms is None or at < row.valid_to_ms)
            ]
            if not rows:
                return None
            row = max(rows, key=lambda row: (row.layer, row.valid_from_ms or 0))
            price = max(step for step in row.steps if step[0] <= part.tier_basis)[1]
            total += Fraction(quantity * price, 1000)
    return total


@settings(max_examples=400, deadline=None)
@given(entry=entries, at=AT, tokens=TOKENS, cached=TOKENS, out=TOKENS)
def test_charges_agree_with_a_slow_exact_reference(entry, at, tokens, cached, out):
    if entry.provider == "deepseek" or any(row.schedule for row in BOOK.rows(entry.provider, entry.id)):
        return
    record = usage({"input": tokens, "input_cache_read": cached, "output": out}, basis=tokens + cached)
    exact = reference(BOOK, record, entry, at)
    got = charge(BOOK, record, target(entry), at_ms=at)
    if exact is None or got.total is None:
        return
    fee = sum(line.amount or 0 for line in got.lines if line.unit == "request")
    assert abs(got.total - fee - exact) <= Fraction(len(got.lines), 2)
    assert got.total == sum(line.amount or 0 for line in got.lines)


@st.composite
def worst_cases(draw) -> tuple[Bounds, Usage]:
    images = draw(st.integers(0, 2))
    bounds = Bounds(
        input_tokens=draw(TOKENS),
        output_tokens=draw(TOKENS),
        choices=draw(st.integers(1, 3)),
        images=images,
        cache_write=draw(st.booleans()),
        cache_ttl_long=draw(st.booleans()),
        service_tier=draw(st.sampled_from(("", "auto", "default", "flex", "priority", "batch", "surprise"))),
        hosted_tools=tuple(
            sorted(draw(st.dictionaries(st.sampled_from(sorted(TOOLS)), st.integers(0, 5), max_size=2)).items())
        ),
        facets=draw(
            st.sampled_from(((), (("speed", "fast"),), (("region", "eu"),), (("region", "us"), ("speed", "fast"))))
        ),
    )
    inputs = [*TEXT, *(WRITES if bounds.cache_write else ()), *(MEDIA if images else ())]
    if bounds.cache_write and bounds.cache_ttl_long:
        inputs += LONG
    parts = []
    left_in, left_out = bounds.input_tokens, bounds.output_tokens * bounds.choices
    for _ in range(draw(st.integers(1, 3))):
        lines: dict[str, int] = {}
        basis = 0
        for unit in draw(st.lists(st.sampled_from(inputs), unique=True, max_size=4)):
            lines[unit] = draw(st.integers(0, left_in))
            left_in -= lines[unit]
            basis += lines[unit]
        for unit in draw(st.lists(st.sampled_from(OUTPUT), unique=True, max_size=3)):
            lines[unit] = draw(st.integers(0, left_out))
            left_out -= lines[unit]
        parts.append((lines, basis))
    for tool, uses in bounds.hosted_tools:
        parts[0][0][TOOLS[tool]] = draw(st.integers(0, uses or USES_ASSUMED))
    made = tuple(
        UsagePart(lines=tuple((u, q) for u, q in lines.items() if q), tier_basis=basis) for lines, basis in parts
    )
    return bounds, Usage(parts=made, source="reported", facets=bounds.facets)


def served_tiers(entry, asked: str) -> list[str]:
    """What a provider may answer: the asked tier or the default; anything it sells when it was free to choose."""
    own = sorted(BOOK.values_of(Resolved(entry.provider, entry.provider, entry.id, "", None), "service_tier"))
    if asked == "batch":
        return ["batch"]
    if asked == "default":
        return ["default", "standard", ""]
    return ["", "default", *own] if asked in ("", "auto", "surprise") else [asked, "default"]


@settings(max_examples=500, deadline=None)
@given(entry=entries, at=AT, case=worst_cases(), data=st.data())
def test_no_usage_within_the_bounds_costs_more_than_the_ceiling(entry, at, case, data):
    bounds, record = case
    tier = data.draw(st.sampled_from(served_tiers(entry, bounds.service_tier)))
    facets = record.facets
    if not dict(facets).get("region") and data.draw(st.booleans()) and entry.provider == "anthropic":
        facets = tuple(sorted((*facets, ("region", "us"))))  # a workspace default that no request shows
    record = msgspec.structs.replace(record, service_tier=tier, facets=facets)
    got = charge(BOOK, record, target(entry), at_ms=at)
    limit = PRICES.ceiling(bounds, target(entry), at_ms=at)
    if got.total is not None and limit is not None:
        assert got.total <= limit


def test_every_model_with_ordinary_prices_has_a_ceiling_that_holds_an_ordinary_call():
    at = 1_795_014_000_000
    bounded = 0
    for entry in MODELS:
        record = usage({"input": 1_000, "input_cache_read": 500, "output": 100, "output_reasoning": 50}, basis=1_500)
        got = charge(BOOK, record, target(entry), at_ms=at)
        limit = PRICES.ceiling(Bounds(input_tokens=1_500, output_tokens=150), target(entry), at_ms=at)
        if got.total is not None:
            assert limit is not None, f"{entry.provider}/{entry.id}"
            assert got.total <= limit
            bounded += 1
    assert bounded > 2_000


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_an_explicit_zero_quantity_of_any_unit_costs_nothing_and_needs_no_price(unit):
    record = Usage(parts=(UsagePart(lines=((unit, 0),)),), source="reported")
    got = charge(BOOK, record, Target(provider="openai", price_as="openai", model="gpt-4o"), at_ms=1_795_014_000_000)
    assert isinstance(got, Charge)
    assert (got.total, got.state) == (0, "free")
