"""Rating the past again: differences as adjustments, exact, idempotent, and never over what is not ours to change."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing import bootstrap, config
from farthing.cli import main
from farthing.core import pricing
from farthing.core.money import Nusd, Pusd
from farthing.core.price_book import PriceBook
from farthing.core.pricing_rows import BookData, ModelEntry, PriceRow
from farthing.core.repricing import (
    Rerated,
    adjustment,
    effective,
    effective_lines,
    kept_reason,
    rerated,
    target_of,
)
from farthing.core.types import Charge, Decision, LedgerEntry, LedgerQuery, Target, Usage, UsagePart
from farthing.testing.records import AT_MS, an_entry

UNITS = ("input", "input_cache_read", "output", "web_search")
NOW = AT_MS + 1_000_000


def book_of(prices: dict[str, int]) -> PriceBook:
    """A book with one model; units that are left out have no price."""
    rows = tuple(
        PriceRow(id=f"p/m/{unit}/{price}", layer=0, provider="p", model="m", unit=unit, steps=((0, Pusd(price)),))
        for unit, price in prices.items()
    )
    return PriceBook(BookData(rows=rows, models=(ModelEntry(provider="p", id="m", names=("m",)),)))


TARGET = Target(provider="p", price_as="p", model="m")


def charged(book: PriceBook, usage: Usage) -> Charge:
    return pricing.charge(book, usage, TARGET, at_ms=AT_MS)


def booked(book: PriceBook, usage: Usage, **more: Any) -> LedgerEntry:
    entry = an_entry("e1", model="m", tokens=(("input", 1),))
    charge = charged(book, usage)
    values: dict[str, Any] = {
        "provider": "p",
        "price_as": "p",
        "usage": usage,
        "charge": charge,
        "baseline": charge.total,
    }
    return msgspec.structs.replace(entry, **values | more)


def applied(entry: LedgerEntry, corrections: tuple[LedgerEntry, ...], book: PriceBook) -> tuple[LedgerEntry, ...]:
    """The corrections after one more repricing."""
    found = rerated(entry, corrections, charged(book, entry.usage))
    more = adjustment(found, now_ms=NOW)
    return (*corrections, more) if more is not None else corrections


prices = st.dictionaries(st.sampled_from(UNITS), st.integers(0, 10**8), min_size=0, max_size=4)
usages = st.builds(
    lambda lines: Usage(parts=(UsagePart(lines=tuple(lines.items())),), source="reported", model="m"),
    st.dictionaries(st.sampled_from(UNITS), st.integers(1, 10**7), min_size=1, max_size=4),
)


@settings(max_examples=150, deadline=None)
@given(prices, usages)
def test_the_book_that_priced_an_entry_prices_it_again_to_the_same_integers(listed, usage):
    book = book_of(listed)
    entry = booked(book, usage)
    assert rerated(entry, (), charged(book, usage)).after == entry.charge.total
    assert applied(entry, (), book) == ()


@settings(max_examples=150, deadline=None)
@given(usages, st.lists(prices, min_size=1, max_size=5))
def test_after_any_sequence_of_books_an_entry_costs_what_the_last_one_that_knows_its_price_says(usage, books):
    first, *later = [book_of(listed) for listed in books]
    entry = booked(first, usage)
    corrections: tuple[LedgerEntry, ...] = ()
    expected = entry.charge.total
    for book in later:
        corrections = applied(entry, corrections, book)
        assert applied(entry, corrections, book) == corrections, "twice is once"
        total = charged(book, usage).total
        expected = expected if total is None else total
        assert effective(entry, corrections) == expected
    assert len({one.id for one in corrections}) == len(corrections)
    for one in corrections:
        assert one.kind == "adjustment"
        assert one.corrects == entry.id
        assert one.charge.total == sum(line.amount or 0 for line in one.charge.lines)
        assert one.usage.parts == (), "nothing more was used"


@settings(max_examples=100, deadline=None)
@given(usages, prices, prices)
def test_lines_of_charge_and_adjustments_net_to_the_new_lines(usage, before, after):
    entry = booked(book_of(before), usage)
    corrections = applied(entry, (), book_of(after))
    if entry.charge.total is None or not corrections:
        return
    net = effective_lines(Rerated(entry=entry, corrections=corrections, before=None, charge=Charge()))
    wanted = [line for line in charged(book_of(after), usage).lines if line.price is not None]
    assert sorted((line.unit, line.quantity, line.amount) for line in net) == sorted(
        (line.unit, line.quantity, line.amount) for line in wanted if line.quantity or line.amount
    )


USAGE = Usage(parts=(UsagePart(lines=(("input", 1000), ("output", 10))),), source="reported", model="m")
CHEAP, DEAR = book_of({"input": 1_000_000, "output": 2_000_000}), book_of({"input": 3_000_000, "output": 4_000_000})


def test_there_and_back_again_books_every_step():
    entry = booked(CHEAP, USAGE)
    corrections: tuple[LedgerEntry, ...] = ()
    for book in (DEAR, CHEAP, DEAR):
        corrections = applied(entry, corrections, book)
    assert [one.charge.total for one in corrections] == [2_020_000, -2_020_000, 2_020_000]
    assert effective(entry, corrections) == charged(DEAR, USAGE).total


def test_an_unpriced_entry_is_priced_later_and_a_known_price_is_never_taken_away():
    entry = booked(book_of({}), USAGE)
    assert entry.charge.total is None
    (first,) = applied(entry, (), CHEAP)
    assert first.charge.total == 1_020_000
    assert first.charge.reason == "was_unpriced"
    found = rerated(entry, (first,), charged(book_of({"input": 1}), USAGE))
    assert found.newly_unpriced
    assert adjustment(found, now_ms=NOW) is None


def test_a_free_price_is_a_price():
    entry = booked(book_of({}), USAGE)
    (first,) = applied(entry, (), book_of({"input": 0, "output": 0}))
    assert (first.charge.total, first.charge.state) == (0, "free")
    assert applied(entry, (first,), book_of({"input": 0, "output": 0})) == (first,)


def reversal(entry: LedgerEntry) -> LedgerEntry:
    return msgspec.structs.replace(entry, id="rev", kind="reversal", corrects=entry.id)


def reconciled(entry: LedgerEntry) -> LedgerEntry:
    decision = Decision(stage="reconcile", action="adjust", reason="billed")
    return msgspec.structs.replace(entry, id="adj", kind="adjustment", corrects=entry.id, decisions=(decision,))


@pytest.mark.parametrize(
    ("entry", "corrections", "reason"),
    [
        (booked(CHEAP, msgspec.structs.replace(USAGE, stated_pusd=5_000)), (), "stated"),
        (booked(CHEAP, USAGE), (reversal(booked(CHEAP, USAGE)),), "reversed"),
        (booked(CHEAP, USAGE), (reconciled(booked(CHEAP, USAGE)),), "billed"),
        (booked(CHEAP, Usage(source="estimated")), (), "not_metered"),
        (booked(CHEAP, USAGE, charge=Charge(total=Nusd(9), state="priced", reason="ceiling")), (), "not_metered"),
        (booked(CHEAP, USAGE), (), ""),
    ],
)
def test_what_is_not_computed_from_usage_and_prices_stays(entry, corrections, reason):
    assert kept_reason(entry, corrections) == reason
    found = rerated(entry, corrections, charged(DEAR, USAGE))
    assert (adjustment(found, now_ms=NOW) is None) == bool(reason)


def test_the_target_takes_region_and_price_name_from_todays_configuration():
    entry = booked(
        CHEAP, USAGE, model="gpt-4o-2024-08-06", model_requested="gpt-4o", provider="azure", price_as="azure"
    )
    deployed = Target(provider="azure", price_as="azure", model="gpt-4o", price_model="gpt-4o-x", region="eu")
    other = Target(provider="openai", price_as="openai", model="gpt-4o")
    assert target_of(entry, (other, deployed)) == deployed
    assert target_of(entry, (other,)).model == "gpt-4o-2024-08-06"


# -- the command over a real ledger --------------------------------------------------------------------------

PERIOD = ("--since", "2026-11-01", "--until", "2026-12-01")
OWN = """
provider: openai
source: contract
checked_on: 2026-11-01
models:
  - id: gpt-4o
    prices:
      - {from: 2026-11-01, input: "2.00", output: "8.00"}
  - id: house-model
    prices:
      - {from: 2026-11-01, input: "1.00", output: "1.00"}
"""


class Home:
    """An installation with a ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = config.parse("", env={"FARTHING_HOME": str(folder)}, source="")

    def add(self, *entries: LedgerEntry) -> None:
        importer = bootstrap.open_importer(self.settings)
        importer.import_batch(entries, [])
        importer.close()

    def entries(self) -> list[LedgerEntry]:
        return list(bootstrap.open_ledger(self.settings).entries())

    def total(self, **where: str) -> int:
        query = LedgerQuery(where=tuple(where.items()))
        return sum(one.amount for one in bootstrap.open_ledger(self.settings).totals(query))

    def run(self, *words: str) -> Result:
        result = CliRunner().invoke(main, ["--home", str(self.folder), *words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def rows(self, *words: str) -> dict[str, dict[str, Any]]:
        result = self.run(*words, "--format", "json")
        assert result.exit_code == 0, result.output
        return {row["model"]: row for row in json.loads(result.stdout)["rows"]}


def a_call(
    home: Home, id: str, model: str, team: str = "search", lines: Sequence[tuple[str, int]] = ()
) -> LedgerEntry:
    usage = Usage(
        parts=(UsagePart(lines=tuple(lines) or (("input", 1_000_000), ("output", 100_000)), tier_basis=1_000_000),),
        source="reported",
        model=model,
    )
    target = Target(provider="openai", price_as="openai", model=model)
    charge = bootstrap.price_book(home.settings).charge(usage, target, at_ms=AT_MS)
    entry = an_entry(id, model=model)
    scope = msgspec.structs.replace(entry.scope, team=team)
    return msgspec.structs.replace(entry, usage=usage, charge=charge, scope=scope, baseline=charge.total)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.add(
        a_call(made, "a", "gpt-4o"),
        a_call(made, "b", "gpt-4o", team="ops"),
        a_call(made, "c", "house-model"),
        a_call(made, "d", "gpt-4o-mini"),
    )
    (tmp_path / "prices").mkdir()
    (tmp_path / "prices" / "own.yml").write_text(OWN, encoding="utf-8")
    return made


def test_a_dry_run_shows_the_difference_by_model_and_books_nothing(home: Home):
    before = home.entries()
    rows = home.rows("reprice", *PERIOD)
    assert rows["gpt-4o"] == {
        "provider": "openai",
        "model": "gpt-4o",
        "entries": 2,
        "before_usd": "7.000000000",
        "before_nusd": 7_000_000_000,
        "after_usd": "5.600000000",
        "after_nusd": 5_600_000_000,
        "difference_usd": "-1.400000000",
        "difference_nusd": -1_400_000_000,
        "changed": 2,
        "newly_priced": 0,
        "newly_unpriced": 0,
        "unpriced": 0,
        "kept": 0,
    }
    assert (rows["house-model"]["before_nusd"], rows["house-model"]["after_nusd"]) == (None, 1_100_000_000)
    assert rows["house-model"]["newly_priced"] == 1
    assert rows["gpt-4o-mini"]["difference_nusd"] == 0
    assert home.entries() == before
    assert "Dry run: nothing was booked" in home.run("reprice", *PERIOD).output


def test_applying_books_adjustments_once_and_leaves_what_was_booked(home: Home):
    before, spent = home.entries(), home.total()
    assert "Booked 3 adjustments, -$0.300000 in all" in home.run("reprice", *PERIOD, "--apply").output
    entries = home.entries()
    assert entries[:4] == before
    assert home.total() == spent - 1_400_000_000 + 1_100_000_000
    assert {one.corrects for one in entries[4:]} == {"a", "b", "c"}
    assert home.total(team="ops") == 2_800_000_000, "adjustments follow the scope of what they correct"
    assert "Booked 0 adjustments" in home.run("reprice", *PERIOD, "--apply").output
    assert home.entries() == entries


def test_only_what_the_filter_names_is_repriced(home: Home):
    home.run("reprice", *PERIOD, "--where", "team=ops", "--apply")
    assert [one.corrects for one in home.entries()[4:]] == ["b"]


def test_a_book_of_files_takes_the_place_of_the_installations_own(home: Home, tmp_path: Path):
    other = tmp_path / "other.yml"
    other.write_text(OWN.replace('"2.00"', '"5.00"').replace("house-model", "elsewhere"), encoding="utf-8")
    rows = home.rows("reprice", *PERIOD, "--book", str(other))
    assert rows["gpt-4o"]["after_nusd"] == 2 * 5_800_000_000
    assert rows["house-model"]["unpriced"] == 1
    assert rows["house-model"]["difference_nusd"] is None


def test_a_receipt_shows_the_effective_amount_and_its_corrections(home: Home):
    home.run("reprice", *PERIOD, "--apply")
    text = home.run("receipt", "request-a").output
    assert "effective $2.800000 with 1 correction, below" in text
    assert "adjustment of a" in text
    assert "Together: $2.800000 in 2 entries" in text
    unpriced = home.run("receipt", "c").output
    assert "effective $1.100000 with 1 correction" in unpriced
    assert "without a known price" not in unpriced
    found = json.loads(home.run("receipt", "a", "--format", "json").stdout)["entries"]
    assert (found[0]["effective_usd"], found[0]["corrected_by"]) == ("2.800000000", [found[1]["id"]])


def test_wrong_usage_is_said(home: Home):
    assert "ends before it begins" in home.run("reprice", "--since", "2026-12-01", "--until", "2026-11-01").output
    assert "no dimension" in home.run("reprice", *PERIOD, "--where", "colour=red").output
