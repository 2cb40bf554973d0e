"""The command line over stores in memory: what it prints, what it refuses, and its exit codes."""

import asyncio
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from farthing.adapters.memory import MemoryBooks, MemoryKeys
from farthing.adapters.sqlite_schema import connect, migrate
from farthing.cli import COMMANDS, main
from farthing.cli.context import App
from farthing.config import Settings, parse
from farthing.core.errors import StoreUnavailable
from farthing.core.money import Nusd, Pusd, amount_nusd
from farthing.core.types import (
    AttemptFact,
    Bounds,
    Charge,
    ChargeLine,
    Exchange,
    Hold,
    LedgerEntry,
    PromptView,
    Reservation,
    Scope,
    Target,
    Usage,
    UsagePart,
)
from farthing.ports.books import Settlement

NOW = 1_795_255_200_000  # 2026-11-21T10:00:00Z
HOUR = 3_600_000


class FlatPrices:
    """Every token costs one nano-dollar, of the models that are known."""

    ref = "flat"

    def charge(self, usage: Usage, target: Target, *, at_ms: int) -> Charge:
        if target.model == "mystery":
            return Charge(reason="unknown_model", price_ref=self.ref)
        price = Pusd(1000)
        lines = tuple(
            ChargeLine(unit=unit, quantity=count, price=price, amount=amount_nusd(count, price))
            for part in usage.parts
            for unit, count in part.lines
        )
        return Charge(
            lines=lines, total=Nusd(sum(line.amount or 0 for line in lines)), state="priced", price_ref="flat"
        )

    def ceiling(self, bounds: Bounds, target: Target, *, at_ms: int) -> Nusd | None:
        return None

    def context_window(self, target: Target) -> int | None:
        return None


class Shown:
    """The reading side of the books, without their asynchronous end."""

    def __init__(self, books: MemoryBooks) -> None:
        self.totals, self.entries, self.exchanges = books.totals, books.entries, books.exchanges
        self.balances = books.balances


class Booking:
    """An importer over the books in memory."""

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    def import_batch(self, entries: Iterable[LedgerEntry], exchanges: Iterable[Exchange]) -> tuple[int, int]:
        there = {entry.id for entry in self._books.entries()}
        pairs = [(entry, exchange) for entry, exchange in zip(entries, exchanges, strict=True)]
        new = [pair for pair in pairs if pair[0].id not in there]
        for entry, exchange in new:
            settlement = Settlement(reservation=None, entries=(entry,), exchange=exchange)
            asyncio.run(self._books.settle(settlement, now_ms=NOW))
        return len(new), len(pairs) - len(new)


class Desk:
    """Stores of one installation, and a way to run commands on it."""

    def __init__(self, folder: Path, text: str = "") -> None:
        self.folder = folder
        self.text = text
        self.books = MemoryBooks()
        self.keys = MemoryKeys()
        self.served: list[Settings] = []
        self.broken = False

    def load_settings(self, config_path: str | None, home: str | None) -> Settings:
        return parse(self.text, env={"FARTHING_HOME": home or str(self.folder)}, source=config_path or "")

    def open_ledger(self, settings: Settings) -> Shown:
        if self.broken:
            raise StoreUnavailable("The ledger cannot be used: the disk is full.", hint="Free some space.")
        return Shown(self.books)

    def open_reports(self, settings: Settings, source: str) -> Shown:
        assert source == ""
        return self.open_ledger(settings)

    def open_balances(self, settings: Settings) -> Shown:
        return Shown(self.books)

    def open_keys(self, settings: Settings) -> MemoryKeys:
        return self.keys

    def open_importer(self, settings: Settings) -> Booking:
        return Booking(self.books)

    def price_book(self, settings: Settings) -> FlatPrices:
        return FlatPrices()

    def ledger_path(self, settings: Settings) -> Path:
        return self.folder / "ledger.sqlite"

    def serve(self, settings: Settings) -> None:
        self.served.append(settings)

    def run(self, *arguments: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(main, arguments, obj=App(stores=self, now_ms=lambda: NOW), input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def json(self, *arguments: str) -> dict:
        result = self.run(*arguments, "--format", "json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def book(self, number: int, *, team: str, tokens: int, model: str = "gpt-4o", source: str = "reported") -> None:
        request = f"r{number}"
        usage = Usage(
            parts=(UsagePart(lines=(("input", tokens),)),), source=source, raw=b'{"prompt_tokens":%d}' % tokens
        )
        target = Target(provider="openai", price_as="openai", model=model)
        charge = FlatPrices().charge(usage, target, at_ms=NOW)
        scope = Scope(team=team, user="ada")
        entry = LedgerEntry(
            id=f"{request}-1",
            request_id=request,
            attempt=1,
            received_at_ms=NOW - number * HOUR,
            booked_at_ms=NOW,
            scope=scope,
            dialect="openai",
            endpoint="chat",
            provider="openai",
            price_as="openai",
            model_requested=model,
            model=model,
            usage=usage,
            charge=charge,
        )
        attempt = AttemptFact(
            attempt=1, provider="openai", model=model, status=200, started_at_ms=NOW, latency_ms=5, entry_id=entry.id
        )
        exchange = self.exchange(request, NOW - number * HOUR, scope, model, attempts=(attempt,), amount=charge.total)
        asyncio.run(self.books.settle(Settlement(reservation=None, entries=(entry,), exchange=exchange), now_ms=NOW))

    def exchange(self, request: str, at_ms: int, scope: Scope, model: str, **more: object) -> Exchange:
        values: dict = {"outcome": "answered", "status": 200} | more
        view = PromptView(endpoint="chat", model=model)
        return Exchange(request_id=request, received_at_ms=at_ms, scope=scope, dialect="openai", view=view, **values)

    def refuse(self, request: str) -> None:
        exchange = self.exchange(
            request, NOW - 60_000, Scope(team="ops"), "gpt-4o", outcome="refused", status=429, error="budget_exceeded"
        )
        asyncio.run(self.books.settle(Settlement(reservation=None, exchange=exchange), now_ms=NOW))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def busy(desk: Desk) -> Desk:
    desk.book(1, team="search", tokens=3000)
    desk.book(2, team="search", tokens=1000, source="estimated")
    desk.book(3, team="ops", tokens=500)
    desk.book(4, team="ops", tokens=77, model="mystery")
    desk.book(30, team="ops", tokens=900)
    desk.refuse("r99")
    return desk


def test_help_lists_every_command_without_importing_any():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name}\s", result.output, re.MULTILINE)


def test_an_unknown_command_is_wrong_usage(desk: Desk):
    assert desk.run("reprot").exit_code == 2


def test_check_says_what_will_run_and_warns_when_nothing_limits_spending(desk: Desk):
    result = desk.run("check")
    assert result.exit_code == 0
    assert "defaults (no configuration file): no problems" in result.output
    assert "openai: https://api.openai.com/v1, key from OPENAI_API_KEY" in result.output
    assert "nothing limits spending" in result.output


def test_check_prints_every_problem_and_ends_with_one(desk: Desk):
    desk.text = "[server]\nprt = 1\n[[budgets]]\nname = 'x'\nper = 'day'\nusd = 1.5\n"
    result = desk.run("--config", "my.toml", "check")
    assert result.exit_code == 1
    assert "my.toml: 2 problems" in result.output
    assert 'server.prt: unknown setting (did you mean "port"?)' in result.output
    assert 'write "1.5" in quotes' in result.output


def test_other_commands_end_with_two_when_the_configuration_is_wrong(desk: Desk):
    desk.text = "prt = 1"
    result = desk.run("report")
    assert result.exit_code == 2
    assert "unknown setting" in result.output
    assert "Traceback" not in result.output


def test_a_broken_store_is_one_message_with_its_fix(desk: Desk):
    desk.broken = True
    result = desk.run("report")
    assert result.exit_code == 2
    assert result.output.strip() == "Error: The ledger cannot be used: the disk is full. Free some space."


def test_serve_starts_the_gateway_with_the_options_on_top(desk: Desk):
    assert desk.run("serve", "--port", "9001").exit_code == 0
    assert (desk.served[0].server.port, desk.served[0].server.host) == (9001, "127.0.0.1")


def test_a_key_is_shown_once_and_kept_as_a_hash(desk: Desk):
    created = desk.json(
        "key", "create", "web", "--team", "search", "--tag", "env=prod", "--refine", "user", "--expires", "90d"
    )
    secret = created["rows"][0]["secret"]
    assert re.fullmatch(r"fk-[A-Za-z0-9_-]{43}", secret)
    (record,) = desk.keys.all()
    assert record.hash == hashlib.sha256(secret.encode()).hexdigest()
    assert record.scope == Scope(team="search", key=record.id, tags=(("env", "prod"),))
    assert (record.refine, record.expires_at_ms) == (("user",), NOW + 90 * 24 * HOUR)
    listing = desk.run("key", "ls").output
    assert secret not in listing
    assert f"…{secret[-4:]}" in listing


def test_the_secret_alone_goes_to_standard_output(desk: Desk):
    result = desk.run("key", "create", "web")
    assert re.fullmatch(r"fk-[A-Za-z0-9_-]{43}\n\n", result.stdout)
    assert "cannot be shown again" in result.stderr


def test_a_live_key_keeps_its_name_until_it_is_revoked(desk: Desk):
    desk.run("key", "create", "web")
    assert desk.run("key", "create", "web").exit_code == 1
    assert desk.run("key", "revoke", "web").exit_code == 0
    assert desk.keys.all()[0].revoked_at_ms == NOW
    assert desk.run("key", "revoke", "web").exit_code == 1
    assert "revoked" in desk.run("key", "ls", "--all").output
    assert desk.json("key", "ls")["rows"] == []


@pytest.mark.parametrize(
    "arguments", [["--refine", "key"], ["--tag", "x"], ["--expires", "2020-01-01"], ["--expires", "soon"]]
)
def test_a_key_with_wrong_options_is_not_made(desk: Desk, arguments: list[str]):
    assert desk.run("key", "create", "web", *arguments).exit_code == 2
    assert desk.keys.all() == ()


@pytest.mark.parametrize("name", ["", " ", "web ", "a\nb", "x" * 129])
def test_a_key_has_a_name_that_can_be_read_and_typed(desk: Desk, name: str):
    assert desk.run("key", "create", name).exit_code == 2
    assert desk.keys.all() == ()


def test_a_report_groups_filters_and_keeps_unknown_costs_apart(busy: Desk):
    found = busy.json("report", "--by", "team", "--since", "24h")
    assert [(row["team"], row["cost_nusd"], row["unpriced"], row["estimated_nusd"]) for row in found["rows"]] == [
        ("search", 4000, 0, 1000),
        ("ops", 500, 1, 0),
    ]
    assert (found["total"]["requests"], found["total"]["cost_usd"]) == (4, "0.000004500")
    assert any("without a known price" in note for note in found["notes"])
    only = busy.json("report", "--by", "model", "--where", "team=ops", "--since", "24h")
    assert [(row["model"], row["cost_nusd"]) for row in only["rows"]] == [("gpt-4o", 500), ("mystery", None)]


def test_a_report_compares_with_the_equal_period_before(busy: Desk):
    found = busy.json("report", "--by", "team", "--since", "24h", "--compare")
    ops = next(row for row in found["rows"] if row["team"] == "ops")
    assert (ops["cost_before_nusd"], ops["cost_nusd"], ops["change_nusd"]) == (900, 500, -400)
    assert found["total"]["change_nusd"] == 4500 - 900


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "teem"], '"teem" is no dimension'),
        (["--where", "teem=x"], '"teem" is no dimension'),
        (["--where", "team"], "not name=value"),
        (["--since", "1d", "--until", "2d"], "ends before it begins"),
        (["--since", "last week"], "is no time"),
    ],
)
def test_a_report_refuses_what_it_cannot_mean(busy: Desk, arguments: list[str], message: str):
    result = busy.run("report", *arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("form", ["table", "json", "csv", "md"])
@pytest.mark.parametrize(
    "command", [["report"], ["requests"], ["status"], ["key", "ls"], ["budget", "status"], ["top", "--once"]]
)
def test_every_table_comes_in_every_format_without_colour(busy: Desk, command: list[str], form: str):
    result = busy.run(*command, "--format", form)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    if form == "json":
        assert json.loads(result.output)["title"]


def test_requests_show_the_refused_ones_newest_first(busy: Desk):
    rows = busy.json("requests", "--limit", "2")["rows"]
    assert [(row["request"], row["outcome"], row["cost_nusd"]) for row in rows] == [
        ("r99", "refused", 0),
        ("r1", "answered", 3000),
    ]
    assert [row["request"] for row in busy.json("requests", "--outcome", "refused")["rows"]] == ["r99"]
    unpriced = next(row for row in busy.json("requests")["rows"] if row["request"] == "r4")
    assert unpriced["cost_usd"] is None


@pytest.mark.parametrize("wanted", ["r1", "r1-1"])
def test_a_receipt_opens_a_request_or_an_entry(busy: Desk, wanted: str):
    text = busy.run("receipt", wanted).output
    assert "input  3,000 × $0.001 / 1M = $0.000003" in text
    assert 'raw      {"prompt_tokens":3000}' in text
    assert "Request r1 " in text
    found = busy.json("receipt", wanted)
    assert found["entries"][0]["total_usd"] == "0.000003000"


def test_a_receipt_of_a_refused_request_says_that_nothing_was_billed(busy: Desk):
    assert "Nothing was billed" in busy.run("receipt", "r99").output


def test_a_receipt_of_nothing_ends_with_one(busy: Desk):
    result = busy.run("receipt", "nope")
    assert result.exit_code == 1
    assert 'no request or entry "nope"' in result.output


def test_budget_status_reads_the_counters(busy: Desk):
    busy.text = (
        "[[budgets]]\nname='all'\nper='month'\nusd='10'\n"
        "[[budgets]]\nname='each'\nper='day'\ntokens=1000\neach=['user']\n"
        "[[budgets]]\nname='call'\nper='request'\ninput_tokens=8000\n"
    )
    holds = (
        Hold(counter="all", window="2026-11", unit="usd", limit=10**10, amount=4 * 10**9),
        Hold(counter="each|user=ada", window="2026-11-21", unit="tokens", limit=1000, amount=700),
    )
    reservation = Reservation(id="v", request_id="r", holds=holds, ceiling=None, expires_at_ms=NOW + HOUR)
    asyncio.run(busy.books.reserve(reservation, now_ms=NOW))
    rows = {row["budget"]: row for row in busy.json("budget", "status")["rows"]}
    assert (rows["all"]["held"], rows["all"]["left"], rows["all"]["limit_nusd"]) == (
        "4.000000000",
        "6.000000000",
        10**10,
    )
    assert (rows["each"]["applies_to"], rows["each"]["held"], rows["each"]["left"]) == ("user=ada", 700, 300)
    assert rows["call"]["limit"] == 8000
    assert busy.run("budget", "status", "--name", "nope").exit_code == 2


TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,100,50\n2023-11-16 18:15:47,x,50\n"


def trace(desk: Desk, *arguments: str, text: str = TRACE) -> Result:
    file = desk.folder / "trace.csv"
    file.write_text(text)
    return desk.run("import", "azure-llm-trace", str(file), *arguments)


def test_an_import_books_good_rows_names_bad_ones_and_repeats_nothing(desk: Desk):
    rejects = desk.folder / "bad.csv"
    first = trace(desk, "--as", "gpt-4o-mini", "--team", "load", "--rejects", str(rejects), "--format", "json")
    assert first.exit_code == 0, first.output
    values = {row["what"]: row["value"] for row in json.loads(first.stdout)["rows"]}
    assert (values["rows"], values["bad rows"], values["booked now"], values["already there"]) == (1, 1, 1, 0)
    assert values["cost of all rows"] == "0.000000150"
    assert "line 3: input is 'x'" in first.stderr
    assert rejects.read_text().startswith("line,reason,content\n3,\"input is 'x'")
    (entry,) = desk.books.entries()
    assert (entry.scope.team, entry.provider, entry.charge.total) == ("load", "openai", 150)
    again = trace(desk, "--as", "gpt-4o-mini", "--format", "json")
    values = {row["what"]: row["value"] for row in json.loads(again.stdout)["rows"]}
    assert (values["booked now"], values["already there"]) == (0, 1)


def test_a_dry_run_books_nothing(desk: Desk):
    result = trace(desk, "--as", "gpt-4o-mini", "--dry-run")
    assert (result.exit_code, list(desk.books.entries())) == (0, [])
    assert "nothing was booked" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "names no model"),
        (["--as", "mystery"], 1, "have no known price"),
        (["--as", "gpt-4o", "--strict"], 1, "1 bad rows and --strict"),
        (["--as", "gpt-4o", "--map", "a=teem"], 2, '"teem" is no field'),
        (["--as", "gpt-4o", "--price-at", "someday"], 2, "is no time"),
    ],
)
def test_an_import_that_cannot_be_meant_books_nothing(desk: Desk, arguments: list[str], code: int, message: str):
    result = trace(desk, *arguments)
    assert result.exit_code == code, result.output
    assert message in result.output
    assert list(desk.books.entries()) == []


def test_unknown_prices_are_booked_as_unpriced_only_when_asked(desk: Desk):
    assert trace(desk, "--as", "mystery", "--allow-unpriced").exit_code == 0
    (entry,) = desk.books.entries()
    assert (entry.charge.state, entry.charge.total) == ("unpriced", None)


def test_relative_times_need_a_start(desk: Desk):
    file = desk.folder / "trace.jsonl"
    file.write_text('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [0]}\n')
    assert desk.run("import", "mooncake-trace", str(file), "--as", "gpt-4o").exit_code == 2
    done = desk.run("import", "mooncake-trace", str(file), "--as", "gpt-4o", "--start", "2026-11-20")
    assert done.exit_code == 0, done.output
    assert next(iter(desk.books.entries())).received_at_ms == NOW - 34 * HOUR


@pytest.fixture
def ledger(desk: Desk) -> Desk:
    path = desk.ledger_path(desk.load_settings(None, None))
    connection = connect(path)
    migrate(path, connection)
    connection.close()
    return desk


def test_sql_lists_its_views_with_their_columns(ledger: Desk):
    rows = [(row["view"], row["column"]) for row in ledger.json("sql", "--views")["rows"]]
    assert {"ledger", "ledger_lines", "requests", "counters_now", "reservations_open"} == {view for view, _ in rows}
    assert ("ledger", "amount_nusd") in rows


def test_sql_answers_questions(ledger: Desk):
    found = ledger.json("sql", "SELECT count(*) AS entries, 1.5 AS x, NULL AS missing FROM ledger")
    assert found["rows"] == [{"entries": 0, "x": "1.5", "missing": None}]
    assert ledger.run("sql", "-", "--format", "csv", stdin="SELECT 1 AS one").output == "one\n1\n"


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries",
        "DROP TABLE entries",
        "INSERT INTO changes VALUES ('x', 1)",
        "ATTACH DATABASE 'other.db' AS other",
        "PRAGMA journal_mode = DELETE",
        "CREATE TABLE x (a)",
        "SELECT hash FROM keys",
        "SELECT load_extension('x')",
        "VACUUM",
    ],
)
def test_sql_only_reads_and_never_the_hashes_of_keys(ledger: Desk, statement: str):
    path = ledger.ledger_path(ledger.load_settings(None, None))
    before = path.read_bytes()
    result = ledger.run("sql", statement)
    assert result.exit_code == 1, result.output
    assert "Only reading is allowed" in result.output
    assert path.read_bytes() == before
    assert [item.name for item in ledger.folder.iterdir() if item.suffix == ".db"] == []


def test_sql_names_a_mistake_and_where_to_look(ledger: Desk):
    result = ledger.run("sql", "SELECT nope FROM ledger")
    assert result.exit_code == 2
    assert "no such column: nope" in result.output
    assert "--views" in result.output


def test_sql_without_a_ledger_says_so(desk: Desk):
    result = desk.run("sql", "SELECT 1")
    assert result.exit_code == 2
    assert "There is no ledger at" in result.output


def test_version_is_that_of_the_package():
    assert re.fullmatch(r"farthing \d+\.\d+\.\d+\n", CliRunner().invoke(main, ["version"]).output)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["reprot"], 'No such command "reprot" (did you mean "report"?)'),
        (["report", "--by", "taem"], '"taem" is no dimension (did you mean "team"?)'),
        (["report", "--where", "team=a", "--where", "team=b"], 'no call has both team="a" and "b"'),
    ],
)
def test_a_slip_of_the_keyboard_is_answered_with_what_was_meant(words, meant):
    said = CliRunner().invoke(main, words)
    assert said.exit_code == 2
    assert meant in said.output


def test_the_command_counts_a_file_where_one_is_called_so_and_else_the_text(tmp_path):
    home = ["--home", str(tmp_path)]
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("one two three four five six seven eight nine ten", encoding="utf-8")

    def count(*words: str) -> dict:
        done = CliRunner().invoke(main, [*home, "tokens", *words, "--format", "json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.output)

    assert (count(str(prompt))["tokens"], count(str(prompt))["file"]) == (10, str(prompt))
    assert count("--file", str(prompt))["tokens"] == 10
    assert count("--text", str(prompt))["file"] == ""
    assert count("one two three")["tokens"] == 3
    assert count("one\n" * 5_000)["tokens"] > 5_000
