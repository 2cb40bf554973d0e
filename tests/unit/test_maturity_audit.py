"""``maturity`` from evidence, and an audit log that only grows."""

import sqlite3

import pytest

from farthing.core.types import Scope
from farthing.testing.practice import NOW_MS, Home
from farthing.testing.records import an_entry

LEVEL_3 = """
[limits]
output_tokens_max = 4000
[[budgets]]
name = "all"
per = "month"
usd = "100"
[[alert_sinks]]
name = "log"
kind = "log"
"""


def entries(**scope):
    return [
        an_entry(f"e{n}", 100, scope=Scope(**scope), received_at_ms=NOW_MS - 1000 * (n + 1),
                 tokens=(("input", 100), ("input_cache_read", 900), ("output", 10)))
        for n in range(20)
    ]  # fmt: skip


def steps(home: Home) -> dict:
    return {row["step"]: row for row in home.json("maturity")["rows"]}


def test_nothing_booked_is_level_nothing_and_says_what_to_do_first(tmp_path):
    home = Home(tmp_path)
    home.book([])
    notes = home.json("maturity")["notes"]
    assert notes[0].startswith("Level 0 of 4")
    assert notes[1].startswith("Next: instrument every call")


def test_a_level_needs_every_step_of_those_below(tmp_path):
    home = Home(tmp_path, config=LEVEL_3)
    home.book(entries(team="search"))
    found = steps(home)
    assert found["budgets that bind"]["met"] == "yes"
    assert found["prompt caching that works"]["met"] == "yes"
    assert found["cost per feature"]["met"] == "no"
    assert home.json("maturity")["notes"][0].startswith("Level 1 of 4")


def test_evidence_moves_the_level(tmp_path):
    home = Home(tmp_path, config='[allocation]\nrules = [{owner = "{team}"}]\n')
    home.book(entries(team="search", feature="rank", session="s"))
    file = tmp_path / "o.csv"
    file.write_text("id,kind,session\nx,done,s\n", encoding="utf-8")
    assert home.json("maturity")["notes"][0].startswith("Level 1 of 4")
    home.ok("outcomes", "import", str(file))
    assert home.json("maturity")["notes"][0].startswith("Level 2 of 4")


def test_every_change_is_on_the_log_once_with_what_it_was_before(tmp_path):
    home = Home(tmp_path)
    first = home.json("audit")["rows"]
    assert {row["subject"] for row in first} == {"policy", "prices", "allocation"}
    assert home.json("audit")["rows"] == first
    home.config.write_text(LEVEL_3, encoding="utf-8")
    (newest, *_) = home.json("audit", "--subject", "policy")["rows"]
    old = next(row for row in first if row["subject"] == "policy")
    assert newest["before"] == old["after"] != newest["after"]


def test_keys_are_noted_when_they_are_made_and_revoked(tmp_path):
    home = Home(tmp_path)
    home.ok("key", "create", "desk", "--team", "support")
    (key,) = home.json("key", "ls")["rows"]
    home.ok("key", "revoke", "desk")
    rows = home.json("audit", "--subject", "key")["rows"]
    assert [(row["after"], row["name"]) for row in rows] == [("revoked", key["id"]), ("created", key["id"])]
    assert rows[1]["detail"] == "desk"
    assert all("fk-" not in str(row) for row in rows)


@pytest.mark.parametrize("statement", ["UPDATE changes_made SET \"by\" = ''", "DELETE FROM changes_made"])
def test_the_log_only_grows(tmp_path, statement):
    home = Home(tmp_path)
    home.ok("audit")
    connection = sqlite3.connect(tmp_path / "farthing.db")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()


def test_owners_stand_with_their_budgets_and_keys_and_what_is_missing_is_said(tmp_path):
    budgets = '[[budgets]]\nname = "s"\nper = "day"\nusd = "1"\nmatch = {team = "search"}\n'
    home = Home(tmp_path, config=budgets + '[[budgets]]\nname = "all"\nper = "month"\nusd = "9"\n')
    home.book(
        [*entries(team="search"), an_entry("loose", 500, scope=Scope(feature="x"), received_at_ms=NOW_MS - 60_000)]
    )
    home.ok("key", "create", "prod", "--team", "search")
    home.ok("key", "create", "loose")
    owners = {row["owner"]: row for row in home.json("governance")["rows"]}
    assert (owners["search"]["cost_nusd"], owners["search"]["budgets"], owners["search"]["keys"]) == (
        2_000,
        "s, all",
        1,
    )
    assert (owners["(none)"]["cost_nusd"], owners["(none)"]["budgets"], owners["(none)"]["keys"]) == (500, "all", 1)
    functions = {row["function"]: row for row in home.json("governance", "--nist")["rows"]}
    assert list(functions) == ["Govern", "Map", "Measure", "Manage"]
    assert "1 keys name no team" in functions["Govern"]["open"]
    assert "more than a tenth of cost names no team" in functions["Map"]["open"]
    assert "nobody is told" in functions["Manage"]["open"]
    assert "2 live keys" in functions["Govern"]["evidence"]


def test_a_budget_stands_with_the_owner_to_whom_the_rules_give_its_team(tmp_path):
    home = Home(
        tmp_path,
        config='[allocation]\nversion = "1"\nrules = [{owner = "Discovery", match = {team = "search"}}, '
        '{owner = "{team}", match = {team = "?*"}}]\n'
        '[[budgets]]\nname = "search-month"\nper = "month"\nusd = "5"\nmatch = {team = "search"}\n',
    )
    home.book([an_entry("a", received_at_ms=NOW_MS - 1000, scope=Scope(team="search"))])
    home.ok("key", "create", "prod", "--team", "search")
    owners = {row["owner"]: row for row in home.json("governance")["rows"]}
    assert (owners["Discovery"]["budgets"], owners["Discovery"]["keys"]) == ("search-month", 1)
    assert "search" not in owners
