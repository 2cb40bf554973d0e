"""Parts of the lab's pages: tables read back, the policy's part of a file, bills, jobs, breakpoints, routes."""

import os
import stat
import sys
import time
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.config import parse
from farthing.core.errors import BadRequest
from farthing.core.types import AttemptFact, Decision, Exchange, PromptSection, PromptView, Scope, Usage, UsagePart
from farthing.insight.render import as_json, from_json
from farthing.insight.table import Column, Money, Table
from farthing.lab.doctor_marks import Places
from farthing.lab.rates import BookRates
from farthing.lab.route_use import used
from farthing.library import price_book
from farthing.server.pages.bills import Bills
from farthing.server.pages.policy_text import policy_part
from farthing.server.pages.replays import Order, Replays

NAMES = st.sampled_from(["a", "b", "cost", "what_it_is", "x_1"])
TEXTS = st.text(max_size=8)
WHOLE = st.integers(-(10**15), 10**15)
VALUES = {
    "text": TEXTS, "int": WHOLE, "usd": WHOLE, "percent": st.integers(-(10**7), 10**7),
    "quantity": WHOLE | WHOLE.map(Money),
}  # fmt: skip


@st.composite
def tables(draw) -> Table:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    kinds = [draw(st.sampled_from(sorted(VALUES))) for _ in names]
    columns = tuple(Column(name=name, title="", kind=kind) for name, kind in zip(names, kinds, strict=True))
    row = st.tuples(*(st.none() | VALUES[kind] for kind in kinds))
    rows = draw(st.lists(row, min_size=1, max_size=4))
    return Table(title=draw(TEXTS), columns=columns, rows=tuple(rows), total=draw(st.none() | row),
                 notes=tuple(draw(st.lists(TEXTS, max_size=2))))  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(tables())
def test_a_table_that_was_written_as_json_says_the_same_when_it_is_read_back(table: Table) -> None:
    document = msgspec.json.decode(msgspec.json.encode(as_json(table)))
    again = from_json(document)
    assert as_json(again) == as_json(table)


FILE = """# the company's
on_disconnect = "cancel"
[server]
port = 1
[[providers]]
name = "openai"
base_url = "http://secret.internal/v1"
[[budgets]]   # all of it
name = "month"
per = "month"
usd = "5"
[[dashboard.users]]
name = "ann"
role = "admin"
password_hash = "$argon2id$x"
[[cache]]
name = "all"
"""


def test_the_policy_of_a_file_is_shown_without_people_keys_and_addresses() -> None:
    part = policy_part(FILE)
    assert tomllib.loads(part) == {
        "on_disconnect": "cancel",
        "budgets": [{"name": "month", "per": "month", "usd": "5"}],
        "cache": [{"name": "all"}],
    }
    assert "# all of it" in part
    for secret in ("argon2", "secret.internal", "ann"):
        assert secret not in part
    parse(part, env={}, source="part")


@pytest.mark.parametrize(
    "text",
    [
        'budgets = [{name = "x", per = "day", usd = "1"}]\n[server]\nport = 1\n',
        '[alerts]\nnote = """\n[[budgets]]\nname = "not one"\n"""\n',
        "[[budgets]\n",
    ],
)
def test_a_file_that_cannot_be_told_apart_line_by_line_shows_nothing_wrong(text: str) -> None:
    part = policy_part(text)
    assert part in ("", 'budgets = [{name = "x", per = "day", usd = "1"}]\n')
    if part:
        assert tomllib.loads(part).keys() == {"budgets"}


def test_bills_are_kept_once_and_no_name_leads_out_of_their_folder(tmp_path: Path) -> None:
    bills = Bills(str(tmp_path))
    assert bills.all() == ()
    name = bills.add("openai", '{"data": []}', 1_795_000_000_000)
    assert bills.add("openai", '{"data": []}', 1_800_000_000_000) == name
    other = bills.add("csv", "day,cost\n", 1_795_000_000_000)
    assert {one.name: one.kind for one in bills.all()} == {name: "openai", other: "csv"}
    (tmp_path / "farthing.toml").write_text("secret")
    (tmp_path / "bills" / "link.csv").symlink_to(tmp_path / "farthing.toml")
    for wrong in ("../farthing.toml", "link.csv", "", ".x.csv", "nothing.csv"):
        with pytest.raises(BadRequest):
            bills.path(wrong)
    bills.delete(name)
    assert [one.name for one in bills.all()] == [other]
    with pytest.raises(BadRequest):
        bills.add("csv", " \n", 0)


SLOW = 'print("[]", flush=True); time.sleep(60)'
DONE = 'print(json.dumps([{"title": "T", "rows": [{"a": 1}], "total": None, "notes": []}]))'
WRONG = 'sys.stderr.write("Error: nothing is logged"); sys.exit(1)'


def order(number: int) -> Order:
    return Order(
        title=f"job {number}", policy="", since="7d", until="now", by="ann", at_ms=1_795_000_000_000 + number
    )


def ended(jobs: Replays, name: str) -> str:
    due = time.monotonic() + 20
    while time.monotonic() < due:
        found = jobs.one(name)
        assert found is not None
        if found.state != "running":
            return found.state
        time.sleep(0.05)
    raise AssertionError("it runs for ever")


def command(script: str) -> list[str]:
    return [sys.executable, "-c", f"import json, sys, time\n{script}"]


def test_one_replay_runs_at_a_time_whoever_asks_and_can_be_cancelled_by_anybody(tmp_path: Path) -> None:
    jobs, others = (Replays(str(tmp_path), command(SLOW)) for _ in range(2))
    name = jobs.start(order(1))
    assert [one.state for one in others.all()] == ["running"]
    with pytest.raises(BadRequest, match="running already"):
        others.start(order(2))
    with pytest.raises(BadRequest, match="running"):
        others.delete(name)
    others.cancel(name)
    assert ended(jobs, name) == "cancelled"
    second = others.start(order(3))
    others.cancel(second)
    assert ended(others, second) == "cancelled"
    others.delete(name)
    assert [one.id for one in jobs.all()] == [second]


def test_a_replay_ends_with_its_tables_or_with_what_the_command_said(tmp_path: Path) -> None:
    done = Replays(str(tmp_path), command(DONE))
    name = done.start(order(1))
    assert ended(done, name) == "done"
    found = done.one(name)
    assert found is not None
    assert [table.title for table in found.tables] == ["T"]
    wrong = Replays(str(tmp_path), command(WRONG))
    failed = wrong.start(order(2))
    assert ended(wrong, failed) == "failed"
    told = wrong.one(failed)
    assert told is not None
    assert told.problem == "nothing is logged"
    assert done.one("../" + name) is None
    with pytest.raises(BadRequest):
        done.cancel("nothing")


def test_a_replay_whose_process_was_killed_is_not_taken_for_running(tmp_path: Path) -> None:
    jobs = Replays(str(tmp_path), command(SLOW))
    name = jobs.start(order(1))
    pid = int((tmp_path / "replays" / name / "pid").read_text())
    assert stat.S_ISDIR((tmp_path / "replays" / name).stat().st_mode)
    os.kill(pid, 9)
    assert ended(jobs, name) in ("done", "failed")
    assert ended(Replays(str(tmp_path), command(SLOW)), name) != "running"
    jobs.cancel(name)


def call(number: int, *sections: tuple[str, str, int], marks: int = 0, **more: object) -> Exchange:
    fact = AttemptFact(attempt=1, provider="anthropic", model="claude-sonnet-4-5", status=200, started_at_ms=number,
                       latency_ms=10, entry_id=f"e{number}")  # fmt: skip
    fields: dict[str, object] = {
        "request_id": f"r{number}", "received_at_ms": number, "scope": Scope(feature="reply"), "dialect": "anthropic",
        "view": PromptView(endpoint="messages", model="claude-sonnet-4-5", cache_marks=marks), "outcome": "answered",
        "status": 200, "attempts": (fact,), "amount": 5, "latency_ms": 10,
        "usage": Usage(parts=(UsagePart(lines=(("input", 8_000),)),), source="reported"),
        "sections": tuple(PromptSection(role=role, digest=digest, size=size) for role, digest, size in sections),
    }  # fmt: skip
    return Exchange(**{**fields, **more})


def test_breakpoints_belong_behind_what_most_calls_share() -> None:
    providers = parse("", env={}, source="x").providers
    places = Places(BookRates(price_book(), providers, 1_795_000_000_000))
    calls = [
        call(number, ("tool", "t", 1_000), ("system", "s", 3_000), ("user", f"doc {number // 2}", 2_000),
             ("user", f"q{number}", 2_000), marks=number % 4 == 0)
        for number in range(40)
    ]  # fmt: skip
    assert list(places.watch(calls)) == calls
    (found,) = places.found()
    assert (found.after, found.tokens, found.requests) == ("section 3 (user)", 6_000, 40)
    assert found.reused == pytest.approx(0.5)
    assert found.marked == pytest.approx(0.25)
    assert found.needs_marks
    assert not found.too_short


def test_what_routes_did_is_counted_by_who_decided_and_where_it_went() -> None:
    def routed(number: int, reason: str, model: str, *more: Decision) -> Exchange:
        chosen = Decision(
            stage="route", action="choose", reason=reason, evidence=(("model", model), ("asked", "auto"))
        )
        return call(number, decisions=(chosen, *more), amount=None if number == 3 else 7, latency_ms=100)

    escalated = Decision(stage="cascade", action="escalate", reason="json", evidence=())
    log = [
        routed(1, "route_length", "small"), routed(2, "route_length", "small", escalated),
        routed(3, "route_otherwise", "large"), call(4),
    ]  # fmt: skip
    first, second = used(log)
    assert (first.reason, first.served, first.requests, first.nusd, first.escalated) == (
        "route_length",
        "small",
        2,
        14,
        1,
    )
    assert (second.requests, second.unpriced, second.nusd) == (1, 1, 0)
