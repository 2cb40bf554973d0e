"""Allocation over real ledgers: parts sum to the whole, the ledger stays as it is, nobody's cost is its own row."""

import csv
import hashlib
import html
import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.ledger_query import entry_totals
from farthing.config import parse
from farthing.core.allocation import AllocationRules, Pool, Rule, allocate
from farthing.core.errors import ConfigError
from farthing.core.types import Scope
from farthing.insight import ownership
from farthing.testing.lifelike import lifelike_entries
from farthing.testing.practice import Home
from farthing.testing.records import an_entry

RULES = """
[allocation]
version = "autumn"
rules = [
  {owner = "Discovery", match = {team = "search", feature = "rank"}},
  {owner = "Discovery", match = {"tag:env" = "stag*"}},
  {owner = "{team}", match = {team = "?*"}},
]
pools = [
  {name = "platform", match = {team = "platform"}, basis = "direct"},
  {name = "law", match = {team = "legal"}, basis = "fixed", shares = {search = 3333, support = 3333}},
]
"""
MONTH = "2026-01"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"), config=RULES)
    home.book(lifelike_entries(4_000, seed=11))
    return home


def digest(home: Home) -> str:
    return hashlib.sha256(repr([*home.ledger.entries()]).encode()).hexdigest()


def total(home: Home) -> int:
    return home.json("report", "--by", "team", "--since", "2026-01", "--until", "2026-02")["total"]["cost_nusd"]


def test_statements_sum_to_the_ledger_and_change_nothing_in_it(home):
    before = digest(home)
    table = home.json("chargeback", "--month", MONTH)
    assert table["total"]["cost_nusd"] == sum(row["cost_nusd"] for row in table["rows"]) == total(home)
    assert home.json("chargeback", "--month", MONTH) == table
    assert digest(home) == before


def test_a_month_that_goes_on_is_said_to(home):
    def notes(month: str) -> str:
        return " ".join(home.json("chargeback", "--month", month)["notes"])

    assert "is not over" not in notes(MONTH)
    assert "2027-12 is not over: these are no final amounts" in notes("2027-12")


def test_nobodys_cost_is_its_own_row_and_the_first_thing_said(home):
    table = home.json("allocate", "run", "--since", "2026-01", "--until", "2026-02")
    assert table["rows"][-1]["owner"] == "(unallocated)"
    assert table["notes"][0].startswith("Untagged: ")
    nobody = home.json(
        "allocate", "untagged", "--since", "2026-01", "--until", "2026-02", "--by", "feature", "--limit", "0"
    )
    assert nobody["total"]["cost_nusd"] == table["rows"][-1]["direct_nusd"] > 0


def test_what_a_short_list_leaves_out_is_a_row_of_its_own(home):
    """A total that is more than what stands above it reads as an error in the books."""
    table = home.json("allocate", "untagged", "--since", "2026-01", "--until", "2026-02", "--limit", "1")
    assert table["rows"][-1]["key"].startswith("(other: ")
    assert sum(row["cost_nusd"] for row in table["rows"]) == table["total"]["cost_nusd"]
    assert sum(row["requests"] for row in table["rows"]) == table["total"]["requests"]


def test_owners_say_that_the_requests_of_pools_are_not_among_theirs(home):
    assert "shared pools" in home.ok("allocate", "run", "--since", "2026-01", "--until", "2026-02")


def test_what_has_no_price_is_never_nothing(tmp_path):
    home = Home(tmp_path, config=RULES)
    nameless = an_entry("2", amount=None, model="nobody-knows", scope=Scope(team="ads"))
    home.book([an_entry("1", amount=5), nameless])
    month = datetime.fromtimestamp(nameless.received_at_ms / 1000, UTC).strftime("%Y-%m")
    (row,) = [one for one in home.json("chargeback", "--month", month)["rows"] if one["model"] == "nobody-knows"]
    assert (row["cost_nusd"], row["unpriced"]) == (None, 1)
    (row,) = [one for one in home.json("allocate", "run", "--since", month)["rows"] if one["owner"] == "ads"]
    assert (row["direct_nusd"], row["cost_nusd"], row["unpriced"]) == (None, None, 1)


def test_a_tag_makes_an_owner_and_a_pool_has_none(home):
    owners = {
        row["owner"] for row in home.json("allocate", "run", "--since", "2026-01", "--until", "2026-02")["rows"]
    }
    assert {"Discovery", "search", "support", "团队"} <= owners
    assert owners.isdisjoint({"platform", "legal"})


def test_other_rules_are_previewed_on_the_same_past(home, tmp_path):
    file = tmp_path / "new.toml"
    file.write_text('[allocation]\nrules = [{owner = "all of us"}]\n', encoding="utf-8")
    table = home.json("allocate", "preview", str(file), "--since", "2026-01", "--until", "2026-02")
    assert table["total"]["change_nusd"] == 0
    assert table["total"]["now_nusd"] == table["total"]["preview_nusd"] == total(home)
    assert {row["owner"] for row in table["rows"] if row["preview_nusd"]} == {"all of us"}


def test_every_format_says_the_same_total(home, tmp_path):
    whole = total(home)
    home.ok("chargeback", "--month", MONTH, "--format", "focus", "--out", str(tmp_path / "focus.csv"))
    with (tmp_path / "focus.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sum(Decimal(row["BilledCost"]) for row in rows) * 10**9 == whole
    assert {"BillingPeriodStart", "ChargeCategory", "SubAccountId", "x_AllocationRules"} <= set(rows[0])
    page = home.ok("chargeback", "--month", MONTH, "--format", "html")
    assert "<script" not in page
    last = html.unescape(re.findall(r"<tfoot>.*?\$([\d,.]+).*?</tfoot>", page)[0])
    assert Decimal(last.replace(",", "")) * 10**9 == whole


def test_a_statement_in_focus_fills_all_that_is_mandatory(home, tmp_path):
    home.ok("chargeback", "--month", MONTH, "--format", "focus", "--out", str(tmp_path / "focus.csv"))
    with (tmp_path / "focus.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    mandatory = {
        "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
        "BillingPeriodStart", "ChargeCategory", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart",
        "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit",
        "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
    }  # fmt: skip
    assert {name for one in found for name in mandatory if not one[name]} == set()
    assert {one["PricingUnit"] for one in found} == {"Tokens", "Shares"}


def test_the_name_that_is_shown_for_nobody_can_be_asked_for(home):
    said = home.json("chargeback", "--month", MONTH, "--owner", "(unallocated)")
    assert said == home.json("chargeback", "--month", MONTH, "--owner", "")
    refused = home.run("chargeback", "--month", MONTH, "--owner", "Nobody")
    assert (refused.exit_code, "(unallocated)" in refused.output) == (1, True)


def test_a_folder_gets_one_file_for_each_owner_whatever_they_are_called(home, tmp_path):
    folder = tmp_path / "statements" / "new"
    home.ok("chargeback", "--month", MONTH, "--format", "csv", "--out", f"{folder}/")
    owners = {row["owner"] for row in home.json("chargeback", "--month", MONTH)["rows"]}
    files = list(folder.glob(f"{MONTH}-*.csv"))
    assert len(files) == len(owners | {"(unallocated)"})
    amounts = []
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["owner"] != "total"]
        amounts += [int(Decimal(row["cost_usd"]) * 10**9) for row in rows]
    assert sum(amounts) == total(home)


def test_names_of_owners_cannot_write_html(tmp_path):
    home = Home(tmp_path)
    home.book([an_entry("a", 5, scope=Scope(team="<script>alert(1)</script>"))])
    page = home.ok("chargeback", "--month", "2026-11", "--format", "html")
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_the_version_of_rules_is_their_content_and_is_on_the_audit_log(tmp_path):
    one, two = (parse(RULES.replace("autumn", name), env={"HOME": "/"}, source="").allocation for name in ("a", "b"))
    assert ownership.ref(one) == ownership.ref(two) != ownership.ref(AllocationRules())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('rules = [{match = {team = "x"}}]', "owner is missing"),
        ('rules = [{owner = "a", match = {tema = "x"}}]', 'did you mean "team"'),
        ('rules = [{owner = "{tema}"}]', "no dimension"),
        ('pools = [{name = "p", match = {team = "x"}, basis = "fixed", shares = {a = 10001}}]', "10,000"),
        ('pools = [{name = "p", match = {}, basis = "even"}]', "matches everything"),
        ('pools = [{name = "p", match = {team = "x"}, basis = "fair"}]', "allowed"),
    ],
)
def test_rules_that_cannot_be_meant_are_named(text, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse(f"[allocation]\n{text}\n", env={"HOME": "/"}, source="farthing.toml")


patterns = st.sampled_from(["*", "?*", "", "search", "s*", "团队", "chat"])
matches = st.dictionaries(st.sampled_from(["team", "feature", "tag:env", "model"]), patterns, min_size=1).map(
    lambda found: tuple(sorted(found.items()))
)
owners = st.sampled_from(["A", "B", "{team}", "{customer}", "{tag:env}"])
shares = st.lists(
    st.tuples(st.sampled_from(["A", "B", "C"]), st.integers(0, 3_000)), unique_by=lambda pair: pair[0], min_size=1
)
pools = st.builds(
    lambda match, basis, parts: Pool(name=f"{match}{basis}", match=match, basis=basis, shares=tuple(parts)),
    matches, st.sampled_from(["even", "direct", "tokens", "requests", "fixed", "weighted"]), shares,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 50),
    rules=st.lists(st.builds(lambda owner, match: Rule(owner=owner, match=match), owners, matches), max_size=4),
    pools=st.lists(pools, max_size=2, unique_by=lambda pool: pool.name),
)
def test_any_rules_over_any_ledger_sum_to_the_nano_dollar(seed, rules, pools):
    made = AllocationRules(rules=tuple(rules), pools=tuple(pools))
    entries = list(lifelike_entries(150, seed=seed))
    query = ownership.query((made,), since_ms=0, until_ms=2**60, also=("model",))
    found = ownership.lines(entry_totals(entries, query), query.group_by)
    whole = sum(entry.charge.total or 0 for entry in entries)
    assert sum(owner.total for owner in allocate(made, found)) == whole
    statements = ownership.statements(made, found)
    assert sum(line.amount for statement in statements.values() for line in statement) == whole
    for owner in allocate(made, found):
        assert sum(line.amount for line in statements[owner.owner]) == owner.total
    assert list(statements)[-1] == ""
