"""The month so far and what it will come to: booked spend, the forecast with its calibrated band, day by day."""

from collections.abc import Iterable
from typing import Final

import msgspec

from farthing.core.forecast import Forecast, expect_days, forecast
from farthing.core.types import LedgerQuery, Totals
from farthing.insight.series import DAY_MS, by_day, day_name, days, month_end, month_start
from farthing.insight.table import Column, Table

PAST_DAYS: Final = 180
"""As ``farthing forecast`` learns from."""
NUSD: Final = 10**9


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """The month of an instant, from the days of the ledger. Nano-USD; days are UTC."""

    name: str
    starts_ms: int
    ends_ms: int
    booked: int
    """So far, today included."""
    today: int
    before: int
    """Of the month before, over as many days."""
    days: tuple[tuple[str, int], ...]
    """Every day of the month so far."""
    outlook: Forecast
    """In USD; today is one of its remaining days."""
    ahead: tuple[float, ...]
    """USD expected of each remaining day, today first."""
    days_known: int

    @property
    def expected(self) -> int:
        """What the month will come to; never less than what is booked."""
        return max(self.booked, round(self.outlook.total * NUSD) + self.credit)

    @property
    def credit(self) -> int:
        """What days came to whose corrections outweigh their cost: the forecast takes them for nothing. 0 or less."""
        return sum(min(0, amount) for _, amount in self.days)

    @property
    def band(self) -> tuple[int, int] | None:
        """The band of the forecast; None while there is too little past."""
        if self.outlook.low is None or self.outlook.high is None:
            return None
        low, high = (round(value * NUSD) + self.credit for value in (self.outlook.low, self.outlook.high))
        return max(self.booked, low), max(self.booked, high)


def query(by: tuple[str, ...], now_ms: int) -> LedgerQuery:
    """Days, split by ``by``; the same question serves every report of the last months."""
    return LedgerQuery(group_by=("day", *by), since_ms=month_start(now_ms) - PAST_DAYS * DAY_MS)


def read(rows: Iterable[Totals], now_ms: int) -> Month:
    """The month from rows grouped by day first."""
    rows = tuple(rows)
    starts, ends, today = month_start(now_ms), month_end(now_ms), now_ms - now_ms % DAY_MS
    first = min((row.group[0] for row in rows), default=day_name(today))
    known = [name for name in days(starts - PAST_DAYS * DAY_MS, today) if name >= first]
    past = by_day(rows, known)
    so_far = days(starts, now_ms + 1)
    amounts = by_day(rows, so_far)
    earlier = days(month_start(starts - 1), starts)[: len(so_far)]
    known_usd = [max(0, amount) / NUSD for amount in past]
    outlook = forecast(
        known_usd,
        booked_days=min(len(past), (today - starts) // DAY_MS),
        days_left=(ends - today) // DAY_MS,
        today=max(0, amounts[-1]) / NUSD,
    )
    return Month(
        name=so_far[0][:7],
        starts_ms=starts,
        ends_ms=ends,
        booked=sum(amounts),
        today=amounts[-1],
        before=sum(by_day(rows, earlier)),
        days=tuple(zip(so_far, amounts, strict=True)),
        outlook=outlook,
        ahead=tuple(expect_days(known_usd, (ends - today) // DAY_MS)),
        days_known=len(known),
    )


def build(month: Month) -> Table:
    """Day by day: spend and its running sum."""
    rows, total = [], 0
    for name, amount in month.days:
        total += amount
        rows.append((name, amount, total))
    return Table(
        title=f"{month.name}, day by day (UTC)",
        columns=(
            Column(name="day", title="day"),
            Column(name="cost", title="spend", kind="usd"),
            Column(name="so_far", title="month so far", kind="usd"),
        ),
        rows=tuple(rows),
        total=("expected at the end", None, month.expected),
        notes=notes(month),
    )


def notes(month: Month) -> tuple[str, ...]:
    """How the forecast was made and how far it can be trusted."""
    outlook = month.outlook
    if outlook.method == "none":
        return ("No whole day is booked yet: there is nothing to forecast from.",)
    said = {
        "mean": "the mean of the days so far; a weekly pattern needs two weeks",
        "profile+trend": "weekday profile and damped trend of the last weeks",
    }[outlook.method]
    found = [f"Forecast: {said}."]
    if month.band is None:
        found.append("No band yet: it takes about six weeks of days to calibrate one.")
    else:
        error = "" if outlook.error is None else f"; they were off by {outlook.error * 100:.1f} % on average"
        share = f"{outlook.coverage * 100:.0f} %"
        found.append(f"Band: held {share} of {outlook.backtests} forecasts of this ledger's own past{error}.")
    return tuple(found)
