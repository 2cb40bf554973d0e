"""``farthing budget`` over a real file, a real ledger and the real composition."""

import asyncio
import json
import tomllib
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.sqlite import SqliteBooks
from farthing.cli import main
from farthing.cli.context import App
from farthing.config import parse
from farthing.config.editing import set_budget, toml
from farthing.core.errors import ConfigError
from farthing.core.money import Nusd
from farthing.core.types import Decision, Reservation, Scope
from farthing.insight.reports.budget_forecast import days_until
from farthing.ports.books import Settlement
from farthing.testing.records import a_hold, an_entry, an_exchange

NOW = 1_795_255_200_000  # 2026-11-21T10:00:00Z
DAY = 86_400_000

FILE = """\
# Our budgets.
[server]
port = 9000

[[budgets]]
name = "month"    # the main one
per = "month"
usd = "10"        # ask finance first
each = [
    "team",       # every team
]

# The second.
[[budgets]]
name = "burst"
per = "rolling"
length = "5m"
requests = 3
"""


class Installation:
    """A folder with a file and a ledger, and the command line on them."""

    def __init__(self, folder, text=FILE):
        self.home = folder
        self.file = folder / "farthing.toml"
        self.file.write_text(text)

    def run(self, *words):
        return CliRunner().invoke(
            main, ["--home", str(self.home), "--config", str(self.file), *words], obj=App(now_ms=lambda: NOW)
        )

    def rows(self, *words):
        answer = self.run(*words, "--format", "json")
        assert answer.exit_code == 0, answer.output
        return json.loads(answer.stdout)["rows"]

    def book(self, *acts):
        async def go():
            books = SqliteBooks(self.home / "farthing.db", worker="test")
            await books.start()
            for act in acts:
                await act(books)
            await books.close()

        asyncio.run(go())


@pytest.fixture
def installation(tmp_path):
    return Installation(tmp_path)


def spend(number, at_ms, usd, team="search", holds=()):
    async def act(books):
        entry = an_entry(
            f"r{number}-1", usd, request_id=f"r{number}", received_at_ms=at_ms, scope=Scope(team=team), model="gpt-4o"
        )
        one = Reservation(id=entry.id, request_id=f"r{number}", holds=holds, ceiling=Nusd(usd), expires_at_ms=2**60)
        await books.reserve(one, now_ms=at_ms)
        await books.settle(Settlement(reservation=one, amounts=(usd,) * len(holds), entries=(entry,)), now_ms=at_ms)

    return act


def test_a_change_keeps_everything_else_of_the_file(installation):
    answer = installation.run("budget", "set", "month", "--limit", "usd=25.50", "--limit", "tokens=1000")
    assert answer.exit_code == 0, answer.output
    assert '-usd = "10"        # ask finance first' in answer.output
    assert '+usd = "25.50"        # ask finance first' in answer.output
    expected = FILE.replace('usd = "10" ', 'usd = "25.50" ').replace(
        "]\n\n# The second.", "]\ntokens = 1000\n\n# The second."
    )
    assert installation.file.read_text() == expected


def test_a_new_budget_goes_to_the_end_and_a_dry_run_writes_nothing(installation):
    words = ("budget", "set", "per user", "--per", "day", "--limit", "usd=1", "--each", "user", "--match", "team=a b")
    assert installation.run(*words, "--dry-run").exit_code == 0
    assert installation.file.read_text() == FILE
    assert installation.run(*words).exit_code == 0
    text = installation.file.read_text()
    assert text.startswith(FILE)
    assert text.endswith(
        '[[budgets]]\nname = "per user"\nper = "day"\nusd = "1"\neach = ["user"]\nmatch = { team = "a b" }\n'
    )
    assert [row["budget"] for row in installation.rows("budget", "ls")] == ["month", "burst", "per user"]


def test_a_raise_is_added_with_its_end_and_credits_pile_up(installation):
    assert installation.run("budget", "set", "month", "--raise", "usd=5", "--until", "2026-12-01").exit_code == 0
    (row, _) = installation.rows("budget", "ls")
    assert row["more"] == "+$5.00 until 2026-12-01 00:00:00"
    for amount in ("usd=10", "usd=20"):
        answer = installation.run(
            "budget", "set", "prepaid", "--per", "total", "--credit", amount, "--from", "2026-01-01"
        )
        assert answer.exit_code == 0, answer.output
    assert len(tomllib.loads(installation.file.read_text())["budgets"][2]["credits"]) == 2
    installation.book()
    status = {row["budget"]: row for row in installation.rows("budget", "status")}
    assert status["prepaid"]["limit"] == "30.000000000"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("month", "--raise", "usd=5"), "until is missing"),
        (("new", "--limit", "usd=5"), "per: is missing"),
        (("month", "--timezone", "Mars/X"), "Mars/X"),
        (("month", "--length", "5m"), 'length belongs to per = "rolling"'),
        (("month", "--limit", "tokens=many"), "not a whole number"),
    ],
)
def test_what_would_not_be_valid_is_not_written(installation, words, told):
    answer = installation.run("budget", "set", *words)
    assert answer.exit_code == 2
    assert told in answer.output
    assert installation.file.read_text() == FILE


def test_a_file_that_writes_budgets_inline_is_left_alone():
    with pytest.raises(ConfigError, match="by hand"):
        set_budget('budgets = [{ name = "a", per = "day", usd = "1" }]\n', "a", {"usd": "2"}, source="x")


VALUES = st.one_of(
    st.text(max_size=12), st.integers(0, 10**6), st.booleans(), st.lists(st.text(max_size=5), max_size=3)
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(("month", "burst", "new # one", 'q"uote')),
    st.dictionaries(st.sampled_from(("usd", "each", "per", "timezone", "length")), st.none() | VALUES, max_size=4),
)
def test_an_edit_changes_just_what_was_asked(name, changes):
    before = tomllib.loads(FILE)
    after = tomllib.loads(set_budget(FILE, name, changes, source="x"))
    others = [one for one in after["budgets"] if one["name"] != name]
    assert others == [one for one in before["budgets"] if one["name"] != name]
    (changed,) = [one for one in after["budgets"] if one["name"] == name]
    for key, value in changes.items():
        assert changed.get(key) == value
    assert after["server"] == before["server"]


@given(VALUES)
def test_values_are_written_as_they_are_read(value):
    assert tomllib.loads(f"x = {toml(value)}") == {"x": value}


def test_status_sums_the_parts_of_a_rolling_window_and_shows_the_rate(installation):
    parts = [f"5s.{NOW // 5_000 - back}" for back in (0, 10, 59, 200)]
    holds = [a_hold("burst", 1, limit=99, unit="requests", window=part) for part in parts]
    month = a_hold("month|team=search", 2_000_000_000, limit=10**10, window="2026-11")
    installation.book(
        *(spend(n, NOW - n, 1, holds=(hold,)) for n, hold in enumerate(holds)),
        spend(9, NOW - 10_000, 2_000_000_000, holds=(month,)),
    )
    rows = {row["budget"]: row for row in installation.rows("budget", "status")}
    assert (rows["burst"]["used"], rows["burst"]["left"]) == (3, 0)
    assert (rows["month"]["used"], rows["month"]["left"]) == ("2.000000000", "8.000000000")
    assert rows["month"]["per_day"] == "0.097959184"  # $2 in 20 days and 10 hours


def test_a_forecast_says_when_the_limit_will_be_reached(installation):
    acts = [spend(day, NOW - (11 - day) * DAY, 10**8 * (3 + day % 2)) for day in range(1, 11)]
    held = a_hold("month|team=search", 10**9, limit=10**10, window="2026-11")
    installation.book(*acts, spend(99, NOW, 10**9, holds=(held,)))
    (row,) = [row for row in installation.rows("budget", "forecast") if row["unit"] == "usd"]
    assert (row["left"], row["per_day"], row["days"]) == ("9.000000000", "0.350000000", 10)
    assert row["earliest"] < row["reached"] == "2026-12-17 03:09:00" < row["latest"]
    assert row["outlook"] == "holds"


def test_days_until_a_limit_grow_with_what_is_left_and_shrink_with_scatter():
    assert days_until(0, 5, 0) == 0
    assert days_until(10, 0, 3) is None
    assert days_until(100, 10, 0) == pytest.approx(10)
    assert days_until(100, 10, 5) < 10 < days_until(100, 10, -5)


def test_explain_tells_which_limits_applied_and_which_refused(installation):
    why = Decision(stage="budget", action="refuse", reason="budget_exceeded", evidence=(("left", "$1"),))

    async def refuse(books):
        one = msgspec.structs.replace(
            an_exchange("r7", received_at_ms=NOW), outcome="refused", status=429, error="budget_exceeded:burst",
            decisions=(why,),
        )  # fmt: skip
        await books.settle(Settlement(reservation=None, exchange=one), now_ms=NOW)

    installation.book(refuse, spend(8, NOW, 500))
    rows = {row["budget"]: row for row in installation.rows("budget", "explain", "r7")}
    assert rows["burst"]["verdict"] == "refused by it"
    assert rows["month"]["verdict"] == "not held"
    assert "budget_exceeded (refuse): left: $1" in installation.run("budget", "explain", "r7").output
    rows = {row["budget"]: row for row in installation.rows("budget", "explain", "r8")}
    assert (rows["month"]["counter"], rows["month"]["booked"]) == ("month|team=search", "0.000000500")
    assert installation.run("budget", "explain", "nothing").exit_code == 1


def test_explain_says_what_would_happen(installation):
    installation.book(
        spend(1, NOW, 9 * 10**9, holds=(a_hold("month|team=a", 9 * 10**9, limit=10**10, window="2026-11"),))
    )
    verdicts = [
        {row["budget"]: row["verdict"] for row in installation.rows("budget", "explain", "--team", team, *more)}[
            "month"
        ]
        for team, more in (("a", ("--usd", "1")), ("a", ("--usd", "1.01")), ("b", ("--usd", "9")), ("b", ()))
    ]
    assert verdicts == ["fits", "would be refused", "fits", "unknown: say --usd"]


def test_explain_prices_an_imagined_call_as_the_gateway_would(installation):
    installation.book(spend(1, NOW, 1, holds=(a_hold("month|team=a", 1, limit=10**10, window="2026-11"),)))

    def needed(*more: str) -> int:
        said = ("--team", "a", "--model", "gpt-4o", "--tokens", "8000", *more)
        rows: list[dict[str, Any]] = installation.rows("budget", "explain", *said)
        (row,) = [one for one in rows if one["budget"] == "month"]
        assert row["verdict"] == "fits"
        return round(float(str(row["needed"]).lstrip("$")) * 10**9)

    capped = needed("--output", "500")
    assert capped >= 8_000 * 2_500 + 500 * 10_000  # the ordinary prices of input and output, or more
    assert needed() > capped  # nobody caps the answer: it has its ceiling all the same


ONE_CALL = '[[budgets]]\nname = "answer"\nper = "request"\noutput_tokens = 500\n'


@pytest.mark.parametrize(
    ("action", "needed", "verdict"),
    [
        ("refuse", None, "would be refused: no known price"),
        ("ceiling", "$0.170000", "fits"),  # 8,000 at $20 and 100 at $100 a million
        ("allow", None, "passes: no known price"),
    ],
)
def test_explain_says_what_becomes_of_a_call_without_a_price(tmp_path, action, needed, verdict):
    here = Installation(tmp_path, FILE + f'[unpriced]\naction = "{action}"\n')
    here.book(spend(1, NOW, 1, holds=(a_hold("month|team=a", 1, limit=10**10, window="2026-11"),)))
    said = ("--team", "a", "--model", "nobody-knows", "--tokens", "8000", "--output", "100")
    (row,) = [one for one in here.rows("budget", "explain", *said) if one["budget"] == "month"]
    assert (row["verdict"], row["needed"] and f"${float(str(row['needed']).lstrip('$')):.6f}") == (verdict, needed)


def test_explain_caps_an_answer_as_the_gateway_does_and_needs_no_input(tmp_path):
    here = Installation(tmp_path, FILE + ONE_CALL)
    here.book(spend(1, NOW, 1, holds=(a_hold("month|team=a", 1, limit=10**10, window="2026-11"),)))
    said = ("budget", "explain", "--team", "a", "--model", "gpt-4o", "--output", "6000")
    rows = {row["budget"]: row for row in here.rows(*said)}
    assert (rows["answer"]["needed"], rows["answer"]["verdict"]) == (500, "fits")
    assert rows["month"]["verdict"] == "fits"
    assert "capped by answer" in here.run(*said).output


def test_explain_says_what_thresholds_would_do_to_such_a_call(tmp_path):
    acts = 'usd = "10"\nthresholds = [50, { at = 60, do = "degrade", to = "gpt-4o-mini" }, { at = 91, do = "block" }]'
    here = Installation(tmp_path, FILE.replace('usd = "10"        # ask finance first', acts))
    here.book(spend(1, NOW, 9 * 10**9, holds=(a_hold("month|team=a", 9 * 10**9, limit=10**10, window="2026-11"),)))
    told = here.run("budget", "explain", "--team", "a", "--model", "gpt-4o", "--tokens", "9").output
    assert "month is at 90 % of its usd; from 60 % on, calls go to gpt-4o-mini if it is cheaper" in told
    assert "calls are refused" not in told
    assert " on, " not in here.run("budget", "explain", "--team", "b", "--model", "gpt-4o").output


def test_settings_of_periods_credits_and_thresholds_are_read():
    text = """
[[budgets]]
name = "fiscal"
per = "quarter"
year_month = 4
month_day = 15
day_hour = 6
timezone = "Asia/Kolkata"
usd = "1"
raises = [{ usd = "3", from = 2026-11-01, until = "2026-12-01T00:00:00Z" }]
thresholds = [50, { at = 90, do = "degrade", to = "gpt-4o-mini" }, { at = 95, do = "throttle", per_minute = 6 }]
mode = "shadow"
[[budgets]]
name = "prepaid"
per = "total"
credits = [{ tokens = 5 }, { usd = "2.5", until = 2027-01-01 }]
"""
    fiscal, prepaid = parse(text, env={}, source="x").policy.budgets
    assert (fiscal.year_month, fiscal.month_day, fiscal.day_hour, fiscal.hard) == (4, 15, 6, False)
    (raised,) = fiscal.raises
    assert (raised.from_ms, raised.until_ms) == (1_793_471_400_000, 1_796_083_200_000)
    assert [(step.percent, step.action, step.to, step.per_minute) for step in fiscal.thresholds] == [
        (50, "notify", "", 0),
        (90, "degrade", "gpt-4o-mini", 0),
        (95, "throttle", "", 6),
    ]
    assert [(one.unit, one.amount) for one in prepaid.credits] == [("tokens", 5), ("usd", 2_500_000_000)]


def test_every_problem_of_the_new_settings_is_told_at_once():
    text = """
[[budgets]]
name = "a"
per = "rollin"
usd = "1"
year_month = 13
week_starts = "mon"
credits = [{ usd = "1", tokens = 2 }, { usd = "1", till = 2026-01-01 }]
thresholds = [0, { do = "block" }, { at = 5, do = "explode" }]
[[budgets]]
name = "b"
per = "month"
hard = true
mode = "shadow"
usd = "1"
"""
    with pytest.raises(ConfigError) as caught:
        parse(text, env={}, source="x")
    told = "\n".join(caught.value.problems)
    for part in (
        'did you mean "rolling"',
        "year_month: is 13",
        "week_starts",
        "gives 2 amounts",
        '"till"',
        "item 0 is 0",
        'has no "at"',
        "explode",
        "contradicts hard",
    ):
        assert part in told
