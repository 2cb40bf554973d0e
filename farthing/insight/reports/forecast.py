"""What a month will cost, slice by slice or budget by budget, with a band that past forecasts have calibrated."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.forecast import Forecast, forecast
from farthing.core.policy import Budget
from farthing.core.types import LedgerQuery, Totals
from farthing.insight.daily import NUSD, Series, series
from farthing.insight.honesty import cost_notes, known
from farthing.insight.series import add, fold
from farthing.insight.table import Column, Row, Table, Value, share

TITLE: Final = "Month-end forecast"
DAY_MS: Final = 86_400_000
PAST_DAYS: Final = 180

_MEASURES: Final = (
    Column(name="booked", title="booked so far", kind="usd", unknown="unpriced"),
    Column(name="expected", title="month end", kind="usd"),
    Column(name="low", title="80 %: from", kind="usd", unknown="too little past"),
    Column(name="high", title="to", kind="usd", unknown="too little past"),
    Column(name="error", title="error in back-test", kind="percent", unknown="none yet"),
    Column(name="backtests", title="back-tests", kind="int"),
    Column(name="method", title="method"),
)
_LIMIT: Final = (
    Column(name="limit", title="budget", kind="usd"),
    Column(name="used_share", title="of it at month end", kind="percent"),
    Column(name="outlook", title="outlook"),
)


def month_of(now_ms: int) -> tuple[int, int]:
    """(first instant, end) of the month in UTC."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    first = datetime(now.year, now.month, 1, tzinfo=UTC)
    after = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    return int(first.timestamp() * 1000), int(after.timestamp() * 1000)


def is_monthly(budget: Budget) -> bool:
    """One dollar amount a month for one scope: what a forecast by day can be held against."""
    plain = all(name in SCOPE_DIMENSIONS or name.startswith("tag:") for name, _ in budget.match)
    return budget.per == "month" and "usd" in dict(budget.limits) and not budget.each and plain


def query(by: tuple[str, ...], now_ms: int, *, where: tuple[tuple[str, str], ...] = ()) -> LedgerQuery:
    """Cost by day, of the month and of the past that forecasts learn from."""
    first, _ = month_of(now_ms)
    return LedgerQuery(group_by=("day", *by), since_ms=first - PAST_DAYS * DAY_MS, until_ms=now_ms, where=where)


def build(rows: Iterable[Totals], by: tuple[str, ...], now_ms: int, *, limit: int = 0) -> Table:
    """Largest forecast first, then the whole. Slices are forecast one by one and do not sum to the whole."""
    rows = tuple(rows)
    found = series(rows, "day", until_ms=now_ms, whole=True)
    whole = _whole(found)
    today = _today(rows, now_ms)
    made = {key: _forecast(values, now_ms, today.get(key, 0)) for key, values in found.by_slice.items()}
    ordered = sorted(made, key=lambda key: (-made[key].total, key))
    shown = ordered if limit <= 0 else ordered[:limit]
    month, credits = _month(rows, now_ms)
    lines: list[Row] = []
    if by:
        lines = [
            (*(v or "(none)" for v in key), *_line(made[key], month.get(key, Totals()), credits.get(key, 0)))
            for key in shown
        ]
    everything = add(month.values())
    total = _line(_forecast(whole, now_ms, sum(today.values())), everything, sum(credits.values()))
    label = ("everything", *([""] * (len(by) - 1))) if by else ()
    return Table(
        title=f"{TITLE}, {datetime.fromtimestamp(now_ms / 1000, UTC):%Y-%m}",
        columns=(*(Column(name=name, title=name) for name in by), *_MEASURES),
        rows=tuple(lines) if by else (total,),
        total=(*label, *total) if by else None,
        notes=(*_notes(found, len(ordered) - len(shown)), *cost_notes((everything,))),
    )


def against(limits: Sequence[tuple[str, int, tuple[Totals, ...]]], now_ms: int) -> Table:
    """Monthly budgets: (name, limit in nano-USD, answer to ``query`` with the budget's filter)."""
    lines: list[Row] = []
    for name, limit, rows in limits:
        found = series(rows, "day", until_ms=now_ms, whole=True)
        made = _forecast(_whole(found), now_ms, sum(_today(rows, now_ms).values()))
        month, credits = _month(rows, now_ms)
        line = _line(made, add(month.values()), sum(credits.values()))
        expected, high = _number(line[1]), _number(line[3])
        outlook = "will be passed" if expected > limit else "may be passed" if high > limit else "holds"
        lines.append((name, *line, limit, share(expected, limit), outlook))
    return Table(
        title=f"{TITLE} of budgets, {datetime.fromtimestamp(now_ms / 1000, UTC):%Y-%m}",
        columns=(Column(name="budget", title="budget"), *_MEASURES, *_LIMIT),
        rows=tuple(lines),
        notes=("Monthly budgets in dollars; calendar months in UTC, whatever the budget's own day of start.",),
    )


def _forecast(values: Sequence[int], now_ms: int, today: int) -> Forecast:
    first, end = month_of(now_ms)
    booked_days = min(len(values), (now_ms - first) // DAY_MS)
    left = (end - now_ms + DAY_MS - 1) // DAY_MS
    days = [value / NUSD for value in values]
    return forecast(days, booked_days=booked_days, days_left=left, today=max(0, today) / NUSD)


def _whole(found: Series) -> list[int]:
    return [sum(values[at] for values in found.by_slice.values()) for at in range(found.slots)]


def _today(rows: Iterable[Totals], now_ms: int) -> dict[tuple[str, ...], int]:
    """What is booked of the day in progress: shown, while the forecast still expects a whole day of it."""
    today = f"{datetime.fromtimestamp(now_ms / 1000, UTC):%Y-%m-%d}"
    return {row.group[1:]: row.amount for row in rows if row.group[0] == today}


def _month(rows: Sequence[Totals], now_ms: int) -> tuple[dict[tuple[str, ...], Totals], dict[tuple[str, ...], int]]:
    """The ledger's own sums of the month, today included, slice by slice; and its days below zero, which are less
    than the forecast knows."""
    first = f"{datetime.fromtimestamp(now_ms / 1000, UTC):%Y-%m}-01"
    below = [row for row in rows if row.group[0] >= first and row.amount < 0]
    return (
        {row.group: row for row in fold(rows, since=first)},
        {row.group: row.amount for row in fold(below)},
    )


def _number(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _line(made: Forecast, month: Totals, credit: int) -> Row:
    """``made`` takes days whose corrections outweigh their cost for nothing; what is booked stays the ledger's."""
    booked = month.amount
    expected = max(round(made.total * NUSD) + credit, booked)
    return (
        known(booked, month.unpriced),
        expected,
        None if made.low is None else round(made.low * NUSD) + credit,
        None if made.high is None else max(round(made.high * NUSD) + credit, expected),
        None if made.error is None else round(made.error * 10_000),
        made.backtests,
        made.method,
    )


def _notes(found: Series, hidden: int) -> tuple[str, ...]:
    notes = [
        f"From {found.slots} whole days of past (UTC): median weekday profile, damped robust trend. The band is as "
        "wide as the errors that the same method made on that past with as many days left; it wants 20 back-tests.",
    ]
    if hidden > 0:
        notes.append(f"{hidden:,} smaller slices are not listed.")
    return tuple(notes)
