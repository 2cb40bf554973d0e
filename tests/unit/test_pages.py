"""The dashboard's own arithmetic: state in addresses, remembered answers, scope, short figures."""

import itertools
from urllib.parse import parse_qsl, urlsplit

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.ledger_query import entry_totals
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_newest import SqliteNewest
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.cli import main
from farthing.config import parse
from farthing.core.errors import BadRequest, ConfigError, Unauthorized
from farthing.core.types import LedgerEntry, LedgerQuery, Scope
from farthing.server.pages import state
from farthing.server.pages.money import dollars
from farthing.server.pages.people import Door
from farthing.server.pages.reading import RememberedLedger, ScopedLedger
from farthing.testing.lifelike import MONTH_MS, START_MS, lifelike_entries
from farthing.testing.newest import ReadNewest
from farthing.testing.records import an_entry

DIMENSIONS = ("team", "model", "feature", "day", "week", "state", "tag:env", "month")
ENTRIES = tuple(one for one in lifelike_entries(600, seed=3) if one.kind == "charge")
NOW_MS = START_MS + MONTH_MS * 2 // 3


class Listed:
    """A ledger over a list; the plainest there is."""

    def __init__(self, entries: tuple[LedgerEntry, ...]) -> None:
        self._entries = entries

    def totals(self, query: LedgerQuery):
        return entry_totals(self._entries, query)

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = ""):
        return (one for one in self._entries if request_id in ("", one.request_id) and one.received_at_ms >= since_ms)

    def exchanges(self, *, since_ms: int = 0, after: str = ""):
        return iter(())


QUERIES = st.builds(
    lambda by, since, until, where: LedgerQuery(
        group_by=tuple(by), since_ms=since, until_ms=until, where=tuple(where)
    ),
    st.lists(st.sampled_from(DIMENSIONS), max_size=3, unique=True),
    st.none() | st.integers(START_MS, START_MS + MONTH_MS),
    st.none() | st.integers(START_MS, START_MS + MONTH_MS),
    st.lists(st.tuples(st.just("team"), st.sampled_from(["search", "", "nobody"])), max_size=1),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(QUERIES, min_size=1, max_size=4), st.booleans())
def test_remembered_answers_are_the_ledgers_own(queries: list[LedgerQuery], exported: bool) -> None:
    ledger = Listed(ENTRIES)
    half = Listed(tuple(one for one in ENTRIES if one.received_at_ms < NOW_MS - 5 * state.DAY_MS))
    history = (lambda: half) if exported else None

    def fresh() -> Listed:
        return ledger

    remembered = RememberedLedger(history or fresh, fresh, lambda: NOW_MS)
    for query in (*queries, *queries):
        near = query.until_ms is not None and abs(query.until_ms - NOW_MS) < 60_000
        if not near:
            assert remembered.totals(query) == ledger.totals(query)


@given(st.lists(QUERIES, min_size=1, max_size=3))
def test_a_scope_binds_every_question_whatever_it_asks_for(queries: list[LedgerQuery]) -> None:
    own = tuple(one for one in ENTRIES if one.scope.team == "search")
    scoped = ScopedLedger(Listed(ENTRIES), ReadNewest(lambda: Listed(ENTRIES)), (("team", "search"),))
    for query in queries:
        assert scoped.totals(query) == entry_totals(own, query)
        page, _ = scoped.newest_entries(query, before="", limit=1_000)
        assert all(one.scope.team == "search" for one in page)
    assert {one.scope.team for one in scoped.entries()} == {"search"}


@pytest.mark.parametrize(
    "where", [(), (("team", "search"),), (("feature", "agent"), ("model", "gpt-4o")), (("team", "x"),)]
)
def test_pages_of_requests_bring_every_entry_once_newest_first(tmp_path, where) -> None:
    entries = tuple(an_entry(f"e{at:04}", scope=Scope(team=("search", "legal")[at % 2], feature="agent"),
                             received_at_ms=START_MS + at) for at in range(500))  # fmt: skip
    SqliteImporter(tmp_path / "farthing.db").import_batch(entries, ())
    query = LedgerQuery(since_ms=START_MS + 100, until_ms=START_MS + 450, where=where)
    wanted = [
        one.id for one in SqliteLedger(tmp_path / "farthing.db").entries() if entry_totals([one], query)[0].entries
    ]
    for newest in (SqliteNewest(tmp_path / "farthing.db"), ReadNewest(lambda: Listed(entries))):
        found, cursor = [], ""
        for _ in itertools.count():
            page, cursor = newest.newest_entries(query, before=cursor, limit=37)
            found += [one.id for one in page]
            if not cursor:
                break
        assert found == wanted[::-1]


def test_an_address_says_everything_that_is_wrong_with_it() -> None:
    pairs = [("since", "soon"), ("by", "team,nonsense"), ("where", "team"), ("grain", "decade")]
    with pytest.raises(BadRequest) as wrong:
        state.read("/explore", pairs, now_ms=NOW_MS)
    for word in ("soon", "nonsense", '"team" is not name=value', "decade"):
        assert word in str(wrong.value)


@given(
    st.sampled_from(["30d", "7d", "2026-01", "all"]),
    st.lists(st.sampled_from(DIMENSIONS), max_size=3, unique=True),
    st.lists(st.tuples(st.sampled_from(["team", "tag:env", "user"]), st.text(max_size=20)), max_size=3),
    st.booleans(),
)
def test_a_state_survives_its_own_address(
    since: str, by: list[str], where: list[tuple[str, str]], compare: bool
) -> None:

    first = state.State(
        path="/explore", since=since, by=tuple(by) or ("feature",), where=tuple(where), compare=compare
    )
    pairs = parse_qsl(urlsplit(first.href()).query, keep_blank_values=True)
    again = state.read("/explore", pairs, now_ms=NOW_MS + 400 * state.DAY_MS)
    assert (again.since, again.by, again.where, again.compare) == (first.since, first.by, first.where, first.compare)


@pytest.mark.parametrize(
    ("nusd", "text"),
    [(0, "$0.00"), (1_234_567_890_000, "$1,234.57"), (4_200_000, "$0.0042"), (741_844, "$0.000742"),
     (7, "$0.000000007"), (-2_500_000_000, "-$2.50")],
)  # fmt: skip
def test_short_figures_keep_the_digits_that_say_something(nusd: int, text: str) -> None:
    assert dollars(nusd) == text


def test_what_the_password_command_prints_lets_its_user_sign_in() -> None:
    words = ["dashboard", "password", "tess", "--role", "team", "--team", "search", "--password", "correct horse"]
    printed = CliRunner().invoke(main, words)
    found = parse(printed.output, env={"HOME": "/nowhere"}, source="farthing.toml")
    door = Door(lambda: found, lambda: NOW_MS)

    user = door.sign_in("tess", "correct horse")
    assert (user.role, user.team) == ("team", "search")
    with pytest.raises(Unauthorized):
        door.sign_in("tess", "wrong horse")


def test_everything_wrong_with_dashboard_users_is_said() -> None:
    text = '[[dashboard.users]]\nname = "x y"\nrole = "king"\npassword_hash = "secret"\nteam_name = "a"\n'
    with pytest.raises(ConfigError) as wrong:
        parse(text, env={"HOME": "/nowhere"}, source="farthing.toml")
    for word in ("name", "role", "password_hash", "team_name"):
        assert word in str(wrong.value)
