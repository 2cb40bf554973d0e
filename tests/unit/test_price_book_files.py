"""Price files: dated rows on top, history kept, every mistake of a file named at once."""

import contextlib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.price_feed_yaml import PriceFile
from farthing.adapters.price_feeds import load_book, load_default_book
from farthing.adapters.price_files import append_document, take_file
from farthing.core.errors import PriceBookError
from farthing.core.price_book import PriceBook
from farthing.core.pricing import charge
from farthing.core.pricing_rows import Schedule
from farthing.core.types import Target, Usage, UsagePart

NOW = 1_795_014_000_000  # 2026-11-18T15:00:00Z, a Wednesday
DAY = 86_400_000
KEYS = (
    "provider", "models", "id", "prices", "input", "output", "from", "to", "when", "schedule", "multipliers", "name",
    "factor", "units", "schedules", "windows", "weekdays", "calendars", "holidays", "verified_on", "derived", "unit",
    "of", "aliases", "match", "equals", "or", "falls_to", "tiers", "inherits", "source", "source_url", "checked_on",
    "utc_offset_minutes", "context_window", "replaces",
)  # fmt: skip
MILLION = (("input", 1_000_000),)


def book_of(tmp_path, text: str, *, base: bool = False) -> PriceBook:
    path = tmp_path / "own.yml"
    path.write_text(text, "utf-8")
    return load_book([path], base=base).book


def bill(book, provider="acme", model="m", lines=MILLION, at=NOW, tier="", facets=(), basis=0):
    usage = Usage(
        parts=(UsagePart(lines=lines, tier_basis=basis),), source="reported", service_tier=tier, facets=facets
    )
    return charge(book, usage, Target(provider=provider, price_as=provider, model=model), at_ms=at)


SELF_HOSTED = """
provider: acme
source: self_hosted
models:
  - id: m
    aliases: [m-latest]
    context_window: 8192
    prices:
      - {input: "0.25", output: "1"}
"""


def test_a_self_hosted_model_is_priced_like_any_other(tmp_path):
    got = bill(book_of(tmp_path, SELF_HOSTED), model="m-latest", lines=(("input", 4), ("output", 1)))
    assert (got.total, got.state) == (2_000, "priced")
    assert got.lines[0].row.startswith("acme/m/input")


def test_a_later_price_ends_an_open_one_and_both_stay(tmp_path):
    text = SELF_HOSTED + '      - {from: 2026-11-18, input: "0.50", output: "1"}\n'
    book = book_of(tmp_path, text)
    assert bill(book, at=NOW - DAY).total == 250_000_000
    assert bill(book, at=NOW).total == 500_000_000


def test_before_its_first_price_a_model_has_none(tmp_path):
    book = book_of(tmp_path, SELF_HOSTED.replace("{input", "{from: 2026-11-18, input"))
    got = bill(book, at=NOW - DAY)
    assert (got.total, got.reason) == (None, "no_price_at")


def test_a_contract_price_wins_over_the_list_and_only_from_its_date(tmp_path):
    text = """
provider: openai
source: contract
models:
  - id: gpt-4o
    prices:
      - {from: 2026-11-18, input: "2"}
"""
    book = book_of(tmp_path, text, base=True)
    assert bill(book, "openai", "gpt-4o-2024-08-06", at=NOW - DAY).total == 2_500_000_000
    assert bill(book, "openai", "gpt-4o-2024-08-06").total == 2_000_000_000
    assert bill(book, "openai", "gpt-4o", lines=(("output", 1_000_000),)).total == 10_000_000_000


def test_a_markup_multiplies_every_price_and_shows_why(tmp_path):
    text = """
provider: "*"
source: contract
multipliers:
  - {name: platform_fee, factor: "1.05", units: ["*"]}
"""
    got = bill(book_of(tmp_path, text, base=True), "openai", "gpt-4o", lines=(("input", 100), ("web_search", 2)))
    assert [line.amount for line in got.lines] == [262_500, 21_000_000]
    assert got.lines[0].multipliers == (("platform_fee", 10_500),)


def test_a_marginal_step_rates_only_what_lies_beyond_it(tmp_path):
    text = SELF_HOSTED.replace(
        '{input: "0.25", output: "1"}', '{marginal: "true", input: {0: "1", 100: "10"}, output: "1"}'
    )
    got = bill(book_of(tmp_path, text), lines=(("input", 150),), basis=150)
    assert [(line.quantity, line.amount) for line in got.lines] == [(100, 100_000), (50, 500_000)]


def test_audio_is_never_billed_as_text_but_reasoning_is_output(tmp_path):
    book = book_of(tmp_path, SELF_HOSTED)
    got = bill(book, lines=(("input", 10), ("input_audio", 5), ("output_reasoning", 2)))
    assert (got.total, got.reason) == (None, "unknown_unit:input_audio")
    assert [line.amount for line in got.lines] == [2_500, None, 2_000]


def test_a_file_may_say_that_audio_is_billed_as_text(tmp_path):
    book = book_of(tmp_path, SELF_HOSTED.replace("    prices:", "    falls_to: {input_audio: input}\n    prices:"))
    assert bill(book, lines=(("input_audio", 4),)).total == 1_000


def test_an_explicit_zero_is_free_and_an_absent_price_is_not(tmp_path):
    book = book_of(tmp_path, SELF_HOSTED.replace('"0.25"', '"0"'))
    assert (bill(book).total, bill(book).state) == (0, "free")
    assert bill(book, lines=(("output_image", 1),)).state == "unpriced"


def test_a_missing_usage_is_not_a_free_one(tmp_path):
    book = book_of(tmp_path, SELF_HOSTED)
    target = Target(provider="acme", price_as="acme", model="m")
    missing = charge(book, Usage(source="missing"), target, at_ms=NOW)
    assert (missing.total, missing.reason) == (None, "usage_missing")
    empty = charge(book, Usage(source="reported"), target, at_ms=NOW)
    assert (empty.total, empty.state) == (0, "free")


def test_a_stated_cost_wins_and_the_computed_one_stays_beside_it(tmp_path):
    book = book_of(tmp_path, SELF_HOSTED)
    usage = Usage(parts=(UsagePart(lines=(("input", 4),)),), source="reported", stated_pusd=1_234_500)
    got = charge(book, usage, Target(provider="acme", price_as="acme", model="m"), at_ms=NOW)
    assert (got.total, got.computed, got.state) == (1_234, 1_000, "priced")
    unknown = charge(book, usage, Target(provider="acme", price_as="acme", model="other"), at_ms=NOW)
    assert (unknown.total, unknown.computed, unknown.state) == (1_234, None, "priced")


def test_a_dear_tier_without_a_price_is_unknown_and_a_cheap_one_costs_the_list(tmp_path):
    book = book_of(tmp_path, SELF_HOSTED)
    assert bill(book, tier="priority").reason == "unknown_service_tier:priority"
    assert bill(book, facets=(("speed", "fast"),)).reason == "unknown_speed:fast"
    assert bill(book, tier="flex").total == bill(book, tier="scale").total == 250_000_000


def test_parts_are_tested_for_their_tier_and_model_one_by_one():
    book = load_default_book()
    parts = (
        UsagePart(lines=(("input", 150_000),), tier_basis=150_000),
        UsagePart(lines=(("input", 250_000),), tier_basis=250_000),
        UsagePart(lines=(("input", 1_000),), tier_basis=1_000, model="claude-haiku-4-5"),
    )
    target = Target(provider="anthropic", price_as="anthropic", model="claude-sonnet-4-5")
    got = charge(book, Usage(parts=parts, source="reported"), target, at_ms=NOW)
    assert [line.amount for line in got.lines] == [450_000_000, 1_500_000_000, 1_000_000]
    assert [line.model for line in got.lines] == ["", "", "claude-haiku-4-5"]


def test_the_hash_is_the_content_not_the_order_nor_the_process(tmp_path):
    one = load_default_book()
    assert one.ref == load_default_book().ref
    assert one.ref != book_of(tmp_path, SELF_HOSTED, base=True).ref


def test_float_dust_in_the_list_is_rounded_and_counted():
    loaded = load_book(corrections=False)
    assert len(loaded.dust) > 20
    assert any("→" in line for line in loaded.dust)
    assert all(price == int(price) for row in loaded.book.data.rows for _, price in row.steps)


def test_every_mistake_of_a_file_is_named_at_once(tmp_path):
    text = """
provider: acme
colour: blue
models:
  - id: m
    context_window: lots
    prices:
      - {inputt: "1"}
      - {input: cheap, from: someday}
      - {output: "-1"}
      - {output: {5: "1"}}
      - {source: rumour, input: "1"}
multipliers:
  - {name: x, factor: "1.00001"}
schedules:
  night: {windows: ["23:00-01:00"], weekdays: [moon]}
"""
    with pytest.raises(PriceBookError) as caught:
        book_of(tmp_path, text)
    said = "\n".join(caught.value.problems)
    for word in (
        "colour",
        "lots",
        "inputt",
        "cheap",
        "someday",
        "negative",
        "first step",
        "rumour",
        "1.00001",
        "23:00",
        "moon",
    ):
        assert word in said
    assert "source_url" in said
    assert "checked_on" in said


def test_contradictions_are_refused_all_of_them(tmp_path):
    text = SELF_HOSTED + (
        '      - {input: "0.30", output: "2"}\n'
        '      - {from: 2026-01-01, to: 2026-06-01, input: "1"}\n'
        '      - {from: 2026-05-01, input: "2"}\n'
    )
    with pytest.raises(PriceBookError) as caught:
        book_of(tmp_path, text)
    assert len(caught.value.problems) == 3


def test_prices_are_text_so_no_float_ever_touches_them(tmp_path):
    book = book_of(tmp_path, SELF_HOSTED.replace('"0.25"', "0.1"))
    assert book.data.rows[0].steps == ((0, 100_000),)


def test_tokens_cannot_be_priced_for_every_model_of_a_provider(tmp_path):
    with pytest.raises(PriceBookError, match="per model"):
        book_of(tmp_path, 'provider: acme\nsource: manual\nmodels: [{id: "*", prices: [{input: "1"}]}]')


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c", "models: 7", "provider: acme\nmodels: [7]"])
def test_nonsense_is_an_error_with_a_name_not_a_crash(tmp_path, text):
    with pytest.raises(PriceBookError):
        book_of(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(PriceBookError, match="absent"):
        load_default_book([tmp_path / "absent.yml"])


def test_appending_keeps_what_was_there_and_refuses_a_contradiction(tmp_path):
    path = append_document(tmp_path, "own", SELF_HOSTED)
    before = path.read_text()
    append_document(
        tmp_path, "own", SELF_HOSTED.replace("{input", "{from: 2026-12-01, input").replace("0.25", "0.35")
    )
    assert path.read_text().startswith(before)
    grown = path.read_text()
    with pytest.raises(PriceBookError, match="same instant"):
        append_document(tmp_path, "own", SELF_HOSTED.replace("0.25", "0.75"))
    assert path.read_text() == grown
    assert [entry.name for entry in path.parent.iterdir()] == ["own.yml"]


def test_a_taken_file_may_grow_and_never_shrink(tmp_path):
    source = tmp_path / "contract.yml"
    source.write_text(SELF_HOSTED)
    take_file(tmp_path, str(source), "contract")
    source.write_text(SELF_HOSTED + '      - {from: 2026-12-01, input: "0.2"}\n')
    installed = take_file(tmp_path, str(source), "contract")
    source.write_text(SELF_HOSTED)
    with pytest.raises(PriceBookError, match="new file"):
        take_file(tmp_path, str(source), "contract")
    assert "2026-12-01" in installed.read_text()


def test_prices_are_not_taken_over_plain_http(tmp_path):
    with pytest.raises(OSError, match="https"):
        take_file(tmp_path, "http://prices.example/p.yml", "p")


def test_a_schedule_applies_on_its_local_weekdays_and_not_on_holidays():
    holiday = NOW // DAY
    schedule = Schedule(
        name="s",
        windows=((60, 240),),
        weekdays=(0, 1, 2, 3, 4),
        holidays=frozenset({holiday}),
        utc_offset_minutes=480,
    )
    monday = NOW - NOW % DAY - 2 * DAY
    assert schedule.active(monday + 2 * 3_600_000)
    assert not schedule.active(monday + 4 * 3_600_000)
    assert not schedule.active(monday + 2 * DAY + 2 * 3_600_000)
    assert not schedule.active(monday + 5 * DAY + 2 * 3_600_000)


def test_a_schedule_is_steady_where_it_says_it_is():
    schedule = Schedule(name="s", windows=((60, 240), (360, 600)), weekdays=(0, 1, 2, 3, 4), utc_offset_minutes=480)
    for hour in range(0, 24 * 9):
        instant = NOW - NOW % DAY + hour * 3_600_000 + 1
        start, end = schedule.steady(instant)
        assert start <= instant < end
        assert len({schedule.active(moment) for moment in range(start, end, 600_000)}) == 1


SCRAPS = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "1", "x", "2026-01-01", "input", "*", "m"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(document=st.dictionaries(st.sampled_from(KEYS), SCRAPS, max_size=6))
def test_whatever_a_file_says_it_is_a_book_or_a_list_of_problems(document):
    with contextlib.suppress(PriceBookError):
        assert isinstance(PriceFile(yaml.safe_dump(document), name="scraps", layer=2).data().rows, tuple)


def test_an_own_name_takes_precedence_over_the_same_name_in_the_list(tmp_path):
    text = """
provider: openai
source: contract
models:
  - {id: our-4o, aliases: [gpt-4o], prices: [{input: "7", output: "9"}]}
"""
    book = book_of(tmp_path, text, base=True)
    assert bill(book, "openai", "gpt-4o").total == 7_000_000_000
    assert bill(book, "openai", "gpt-4o-2024-08-06").total == 2_500_000_000


def test_what_farthing_ships_is_built_once_and_own_files_are_read_each_time(tmp_path):
    assert load_book() is load_book()
    assert load_book(corrections=False).book.ref != load_book().book.ref
    own = tmp_path / "own.yml"
    for price in ("1.00", "2.00"):
        own.write_text(
            f"provider: lab\nsource: contract\nmodels:\n  - id: mine\n    prices:\n      - input: {price}\n"
        )
        (row,) = load_book([own]).book.rows("lab", "mine")
        assert row.steps == ((0, int(float(price)) * 1_000_000),)
    assert load_book().book.rows("lab", "mine") == ()
