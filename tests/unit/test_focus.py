"""The FOCUS export: rows that add up to the ledger to the nano-dollar, in a form other tools can read."""

import csv
import io
import json
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from farthing import bootstrap, config
from farthing.adapters.focus_files import text, write_csv
from farthing.cli import main
from farthing.core.money import Nusd, Pusd, amount_nusd
from farthing.core.repricing import correction
from farthing.core.types import Charge, ChargeLine, Decision, LedgerEntry, Scope, Usage, UsagePart
from farthing.insight.focus_lines import Amounts, Counts, FocusLine, Key, lines
from farthing.insight.invoices import Booked
from farthing.insight.reports.focus import ExportRefused, Sums, check, check_total, columns, row, rows
from farthing.testing.records import AT_MS, an_entry

MANDATORY = {
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd",
    "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity",
    "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
}  # fmt: skip
DAY = 86_400_000
UNITS = ("input", "input_cache_read", "output", "web_search")


def line(unit: str, quantity: int, price: int, multipliers: tuple[tuple[str, int], ...] = ()) -> ChargeLine:
    amount = amount_nusd(quantity, Pusd(price), tuple(basis for _, basis in multipliers))
    return ChargeLine(
        unit=unit, quantity=quantity, price=Pusd(price), amount=amount, multipliers=multipliers, row=f"openai/{unit}"
    )


def charge(*found: ChargeLine, stated: int | None = None) -> Charge:
    total = sum(one.amount or 0 for one in found)
    return Charge(lines=found, total=Nusd(total if stated is None else stated), state="priced", price_ref="book")


def a_call(id: str, found: Charge, *, at_ms: int = AT_MS, **more: Any) -> LedgerEntry:
    counts = tuple((one.unit, one.quantity) for one in found.lines)
    usage = Usage(parts=(UsagePart(lines=counts),), source="reported", model="gpt-4o")
    entry = an_entry(id, received_at_ms=at_ms)
    return msgspec.structs.replace(entry, usage=usage, charge=found, **more)


def adjusted(entry: LedgerEntry, found: Charge, *, at_ms: int = AT_MS + 1000) -> LedgerEntry:
    decision = Decision(stage="reprice", action="adjust", reason="repriced")
    return correction(entry, (), found, decision, ("test",), now_ms=at_ms)


def made(*found: Booked, grain: str = "day", list_price: Callable[[LedgerEntry], Charge] | None = None, **more: Any):
    counts = Counts()
    return list(lines(found, grain, list_price or (lambda entry: entry.charge), counts, **more)), counts


def as_rows(found: list[FocusLine], version: str = "1.2") -> list[dict[str, Any]]:
    return [row(one, version, {}) for one in found]


ENTRY = a_call("a", charge(line("input", 1_000, 2_500_000), line("output", 7, 10_000_000)))


def test_all_mandatory_columns_are_there_and_filled_but_the_one_that_may_be_null():
    (first, _) = as_rows(made(Booked(entry=ENTRY))[0])
    assert set(first) >= MANDATORY
    assert {name for name in MANDATORY if first[name] is None} == {"ChargeClass"}


def test_versions_differ_in_who_provides():
    assert {"ProviderName", "PublisherName"} <= set(columns("1.2"))
    assert {"ProviderName", "ServiceProviderName", "HostProviderName"} <= set(columns("1.3"))
    assert not {"ProviderName", "PublisherName"} & set(columns("1.4"))
    for version in ("1.2", "1.3", "1.4"):
        names = columns(version)
        assert len(names) == len(set(names))
        standard = [name for name in names if not name.startswith("x_")]
        assert standard == sorted(standard)
        assert list(names[len(standard) :]) == sorted(names[len(standard) :])


def test_a_row_says_what_it_is_how_much_and_at_which_price():
    found = as_rows(made(Booked(entry=ENTRY))[0])
    first = next(one for one in found if one["SkuMeter"] == "Input Tokens")
    shown = {name: text(value) for name, value in first.items() if value is not None}
    price_id = shown.pop("SkuPriceId")
    assert re.fullmatch(r"openai/gpt-4o/input/default/global/[0-9a-f]{8}", price_id)
    assert re.fullmatch(r"[0-9a-f]{32}", shown.pop("x_FarthingRowId"))
    assert shown == {
        "BilledCost": "0.0025", "BillingAccountId": "openai", "BillingAccountName": "openai",
        "BillingAccountType": "Account", "BillingCurrency": "USD", "BillingPeriodEnd": "2026-12-01T00:00:00Z",
        "BillingPeriodStart": "2026-11-01T00:00:00Z", "ChargeCategory": "Usage",
        "ChargeDescription": "gpt-4o, input tokens", "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": "2026-11-19T00:00:00Z", "ChargePeriodStart": "2026-11-18T00:00:00Z",
        "ConsumedQuantity": "1000.0", "ConsumedUnit": "Tokens", "ContractedCost": "0.0025",
        "ContractedUnitPrice": "2.5", "EffectiveCost": "0.0025", "InvoiceIssuerName": "OpenAI",
        "ListCost": "0.0025", "ListUnitPrice": "2.5", "PricingCategory": "Standard", "PricingCurrency": "USD",
        "PricingCurrencyContractedUnitPrice": "2.5", "PricingCurrencyEffectiveCost": "0.0025",
        "PricingCurrencyListUnitPrice": "2.5", "PricingQuantity": "0.001", "PricingUnit": "1000000 Tokens",
        "ProviderName": "OpenAI", "PublisherName": "OpenAI", "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "OpenAI API", "ServiceSubcategory": "Generative AI", "SkuId": "openai/gpt-4o",
        "SkuMeter": "Input Tokens", "SkuPriceDetails": '{"x_ServiceTier":"default","x_Unit":"input"}',
        "SubAccountId": "search", "SubAccountName": "search", "SubAccountType": "Team",
        "Tags": '{"farthing/team":"search"}', "x_Lines": "1", "x_Unpriced": "false", "x_UsageSource": "reported",
    }  # fmt: skip


def test_list_contracted_and_billed_cost_are_told_apart():
    listed = charge(line("input", 1_000, 2_500_000))
    entry = a_call("a", charge(line("input", 1_000, 2_000_000), stated=1_900_000))
    (only,) = as_rows(made(Booked(entry=entry), list_price=lambda entry: listed)[0])
    assert [text(only[name]) for name in ("ListCost", "ContractedCost", "EffectiveCost", "BilledCost")] == [
        "0.0025", "0.002", "0.0019", "0.0019",
    ]  # fmt: skip
    assert [text(only[name]) for name in ("ListUnitPrice", "ContractedUnitPrice")] == ["2.5", "2.0"]


def test_multipliers_are_part_of_the_unit_price():
    batch = (("batch", 5_000), ("region", 11_000))
    (only,) = as_rows(made(Booked(entry=a_call("a", charge(line("input", 1_000, 2_500_000, batch)))))[0])
    assert text(only["ContractedUnitPrice"]) == "1.375"


def test_a_correction_of_a_month_that_is_over_is_a_correction_and_nets_with_its_charge():
    later = adjusted(
        ENTRY, charge(line("input", -1_000, 2_500_000), line("input", 1_000, 2_000_000)), at_ms=AT_MS + 30 * DAY
    )
    found, _ = made(Booked(entry=ENTRY, corrections=(later,)))
    inputs = [one for one in as_rows(found) if one["SkuMeter"] == "Input Tokens"]
    assert sum(one["BilledCost"] for one in inputs) == Decimal("0.002")
    assert sum(one["ConsumedQuantity"] for one in inputs) == 1_000
    assert [one["ChargeClass"] for one in inputs].count("Correction") == 2
    same_month, _ = made(Booked(entry=ENTRY, corrections=(msgspec.structs.replace(later, booked_at_ms=AT_MS + 5),)))
    assert {one["ChargeClass"] for one in as_rows(same_month)} == {None}
    assert len(same_month) == 2, "what is taken back and never was is no row"


def test_a_ceiling_is_billed_without_a_price_or_a_quantity():
    entry = a_call("a", Charge(total=Nusd(5_000_000), state="priced", reason="ceiling"))
    (only,) = as_rows(made(Booked(entry=entry))[0])
    assert text(only["BilledCost"]) == text(only["ListCost"]) == text(only["ContractedCost"]) == "0.005"
    for name in (
        "SkuPriceId",
        "ContractedUnitPrice",
        "ListUnitPrice",
        "PricingQuantity",
        "PricingUnit",
        "ConsumedQuantity",
    ):
        assert only[name] is None
    assert "without metered usage" in only["ChargeDescription"]


def test_unpriced_usage_is_left_out_and_counted_or_marked_never_silently_zero():
    entry = a_call("a", Charge(lines=(), reason="unknown_model"))
    entry = msgspec.structs.replace(entry, usage=ENTRY.usage)
    found, counts = made(Booked(entry=entry))
    assert (found, counts.unpriced) == ([], 1)
    marked = as_rows(made(Booked(entry=entry), include_unpriced=True)[0])
    assert [(text(one["BilledCost"]), one["x_Unpriced"], one["SkuPriceId"]) for one in marked] == [
        ("0.0", True, None)
    ] * 2
    assert sorted(int(one["ConsumedQuantity"]) for one in marked) == [7, 1_000]
    later = adjusted(entry, charge(line("input", 1_000, 2_500_000)))
    priced, counts = made(Booked(entry=entry, corrections=(later,)))
    assert (counts.unpriced, sum(one.amounts.billed for one in priced)) == (0, 2_500_000)


def test_rows_of_a_day_join_what_is_alike_and_keep_teams_apart():
    other = msgspec.structs.replace(ENTRY, id="b", scope=Scope(team="ops", tags=(("env", "prod"),)))
    again = msgspec.structs.replace(ENTRY, id="c", received_at_ms=AT_MS + 1)
    found = as_rows(made(*(Booked(entry=one) for one in (ENTRY, other, again)))[0])
    assert [(one["SubAccountId"], one["SkuMeter"], one["x_Lines"]) for one in found] == [
        ("ops", "Input Tokens", 1),
        ("search", "Input Tokens", 2),
        ("ops", "Output Tokens", 1),
        ("search", "Output Tokens", 2),
    ]
    assert json.loads(found[0]["Tags"]) == {"farthing/team": "ops", "env": "prod"}


# -- what always holds --------------------------------------------------------------------------------------------

units = st.sampled_from(UNITS)
charge_lines = st.builds(
    line,
    units,
    st.integers(1, 10**6),
    st.integers(0, 10**7),
    st.sampled_from([(), (("batch", 5_000),), (("region", 11_000), ("fee", 10_333))]),
)
charges = st.builds(
    lambda found, stated: charge(*found, stated=stated if found else stated or 0),
    st.lists(charge_lines, max_size=3, unique_by=lambda one: one.unit),
    st.none() | st.integers(0, 10**9),
)
calls = st.lists(
    st.tuples(charges, st.integers(0, 3 * DAY), st.sampled_from(["search", "ops", ""]), st.none() | charges),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(calls, st.integers(0, 10**7))
def test_rows_of_both_grains_sum_to_the_ledger_to_the_nano_dollar(found, list_price):
    ledger = []
    for number, (first, offset, team, second) in enumerate(found):
        entry = a_call(f"e{number}", first, at_ms=AT_MS + offset, scope=Scope(team=team))
        corrections = (adjusted(entry, second, at_ms=AT_MS + offset + 40 * DAY),) if second else ()
        ledger.append(Booked(entry=entry, corrections=corrections))
    total = sum(one.amount or 0 for one in ledger)

    def at_list(entry: LedgerEntry) -> Charge:
        return charge(*(line(unit, count, list_price) for part in entry.usage.parts for unit, count in part.lines))

    answers = {}
    for grain in ("day", "entry"):
        sums = Sums()
        made_lines, _ = made(*ledger, grain=grain, list_price=at_list)
        written = list(rows(made_lines, "1.2", {}, sums))
        check_total(sums, total)
        assert sum(one["BilledCost"] for one in written) * 10**9 == total
        assert len({one["x_FarthingRowId"] for one in written}) == len(written)
        answers[grain] = {
            name: sum(one[name] for one in written) for name in ("BilledCost", "ContractedCost", "ListCost")
        }
        again, _ = made(*ledger, grain=grain, list_price=at_list)
        assert [one.id for one in again] == [one.id for one in made_lines]
        for one in written:
            if one["ContractedUnitPrice"] is not None:
                product = one["PricingQuantity"] * one["ContractedUnitPrice"]
                assert abs(product - one["ContractedCost"]) * 10**9 <= one["x_Lines"]
    assert answers["day"] == answers["entry"]


@settings(max_examples=200, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=15, min_value=-(10**9), max_value=10**9))
def test_numbers_have_a_point_no_exponent_and_lose_nothing(value):
    shown = text(value)
    assert re.fullmatch(r"-?\d+\.\d+", shown)
    assert Fraction(shown) == Fraction(value)


def a_line(**amounts: int) -> FocusLine:
    key = Key(
        start_ms=AT_MS, end_ms=AT_MS + 1, provider="p", price_as="p", model="m", unit="input", tier="", region="",
        scope=(), contracted_price=Fraction(5, 2), list_price=Fraction(3), row="r", source="reported",
        correction=False,
    )  # fmt: skip
    return FocusLine(key=key, amounts=Amounts(lines=1, **amounts), id="id")


def test_a_row_whose_quantity_and_price_are_not_its_cost_is_refused():
    check(a_line(quantity=3, billed=8, contracted=8, listed=9))
    with pytest.raises(ExportRefused, match="ContractedCost"):
        check(a_line(quantity=3, billed=9, contracted=9, listed=9))
    with pytest.raises(ExportRefused, match="ListCost"):
        check(a_line(quantity=3, billed=8, contracted=8, listed=8))


def test_an_export_that_fails_leaves_no_file_and_the_old_one_as_it_was(tmp_path: Path):
    path = tmp_path / "out.csv"
    path.write_text("old", encoding="utf-8")

    def broken():
        yield {"a": 1}
        check_total(Sums(billed=1), 2)

    with pytest.raises(ExportRefused, match=r"The rows come to 0\.000000001, the ledger to 0\.000000002"):
        write_csv(path, ["a"], broken())
    assert [one.name for one in tmp_path.iterdir()] == ["out.csv"]
    assert path.read_text(encoding="utf-8") == "old"


# -- the command over a real ledger -------------------------------------------------------------------------------

PERIOD = ("--since", "2026-11-01", "--until", "2026-12-01")
CONTRACT = """
provider: openai
source: contract
checked_on: 2026-11-01
models:
  - id: gpt-4o
    prices:
      - {from: 2026-11-01, input: "2.00", output: "8.00"}
"""


class Home:
    """An installation with a contract and a little spend."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "prices").mkdir()
        (folder / "prices" / "own.yml").write_text(CONTRACT, encoding="utf-8")
        self.settings = config.parse("", env={"FARTHING_HOME": str(folder)}, source="")
        prices = bootstrap.price_book(self.settings)
        entries = []
        for number, model in enumerate(("gpt-4o", "gpt-4o", "gpt-4o-mini", "no-such-model")):
            usage = Usage(
                parts=(UsagePart(lines=(("input", 1_000), ("output", 100))),), source="reported", model=model
            )
            entry = an_entry(f"e{number}", model=model)
            target = bootstrap.routes_of(self.settings).targets(model, "openai")[0]
            found = prices.charge(usage, target, at_ms=AT_MS)
            entries.append(msgspec.structs.replace(entry, usage=usage, charge=found))
        importer = bootstrap.open_importer(self.settings)
        importer.import_batch(entries, [])
        importer.close()

    def run(self, *words: str) -> Result:
        result = CliRunner().invoke(main, ["--home", str(self.folder), *words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_command_writes_a_checked_file_and_counts_what_is_not_in_it(home: Home):
    out = home.folder / "focus.csv"
    result = home.run("export", "focus", *PERIOD, "--out", str(out), "--account", "openai=org-42")
    assert result.exit_code == 0, result.output
    assert "Wrote 4 rows, $0.00581 in all" in result.output.replace("0.005810", "0.00581")
    assert "1 of 4 entries have no known price and are not in the file" in result.stderr
    found = list(csv.DictReader(io.StringIO(out.read_text(encoding="utf-8"))))
    assert {one["BillingAccountId"] for one in found} == {"org-42"}
    contract = next(one for one in found if (one["SkuId"], one["SkuMeter"]) == ("openai/gpt-4o", "Input Tokens"))
    assert (contract["ListCost"], contract["ContractedCost"], contract["BilledCost"]) == ("0.005", "0.004", "0.004")
    assert all("e" not in one["BilledCost"].lower() for one in found)


def test_unpriced_usage_is_written_when_asked_for(home: Home):
    out = home.folder / "focus.csv"
    home.run("export", "focus", *PERIOD, "--out", str(out), "--include-unpriced")
    found = list(csv.DictReader(io.StringIO(out.read_text(encoding="utf-8"))))
    assert [one["BilledCost"] for one in found if one["x_Unpriced"] == "true"] == ["0.0", "0.0"]


def test_parquet_holds_what_csv_holds(home: Home):
    for name in ("a.csv", "a.parquet"):
        assert (
            home.run("export", "focus", *PERIOD, "--grain", "entry", "--out", str(home.folder / name)).exit_code == 0
        )
    written = list(csv.DictReader(io.StringIO((home.folder / "a.csv").read_text(encoding="utf-8"))))
    table = parquet.read_table(home.folder / "a.parquet")
    assert table.column_names == list(written[0])
    assert str(table.schema.field("BilledCost").type) == "decimal128(38, 15)"
    assert str(table.schema.field("ChargePeriodStart").type) == "timestamp[us, tz=UTC]"
    for one, other in zip(table.to_pylist(), written, strict=True):
        assert text(one["BilledCost"]) == other["BilledCost"]
        assert (one["x_EntryId"], one["x_FarthingRowId"]) == (other["x_EntryId"], other["x_FarthingRowId"])
        assert one["ChargePeriodStart"].strftime("%Y-%m-%dT%H:%M:%SZ") == other["ChargePeriodStart"]
        assert one["CommitmentDiscountId"] is None
        assert other["CommitmentDiscountId"] == ""


def test_wrong_usage_is_said(home: Home):
    assert "ends in .csv or .parquet" in home.run("export", "focus", *PERIOD, "--out", "x.txt").output
    result = home.run("export", "focus", *PERIOD, "--out", str(home.folder / "x.csv"), "--where", "kind=charge")
    assert '"kind" does not filter here' in result.output
