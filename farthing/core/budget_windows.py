"""Windows of time: the calendar's in a time zone with fiscal starts, and rolling ones made of short parts.

``zoneinfo`` reads the time zone database when a policy is loaded; finding a window reads nothing.
"""

import calendar
import datetime
from typing import Final, Protocol, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from farthing.core.policy import Budget, Period, Weekday

PARTS: Final = 60
"""Parts of a rolling window, at least: it counts up to one sixtieth longer than its length, never shorter."""

ROLLING_MS_MIN: Final = 60_000
ROLLING_MS_MAX: Final = 366 * 86_400_000

_DAY: Final = datetime.timedelta(days=1)
_WEEKDAYS: Final[tuple[str, ...]] = get_args(Weekday)
_MONTHS: Final = {"month": 1, "quarter": 3, "year": 12}
_ISO: Final = {"day": "P1D", "week": "P1W", "month": "P1M", "quarter": "P3M", "year": "P1Y"}
_CLOCK_S: Final = {"hour": 3_600, "minute": 60}


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One period of a budget: ``starts_at_ms`` ≤ t < ``ends_at_ms``; ``total`` has no end (None).

    A rolling window is named for its newest part; it starts where what still counts may have been spent, and ends
    when what is spent now counts no more.
    """

    name: str
    starts_at_ms: int
    ends_at_ms: int | None
    also: tuple[str, ...] = ()
    """The other parts of a rolling window: see ``Hold.also``."""


class Windows(Protocol):
    """Which window holds an instant."""

    def window(self, at_ms: int) -> Window: ...

    def steady(self, at_ms: int) -> tuple[int, int]:
        """(from, until): instants in between have the same window as ``at_ms``."""
        ...


class Start(msgspec.Struct, frozen=True):
    """Where a calendar's windows begin."""

    day_hour: int = 0
    week_starts: Weekday = "monday"
    month_day: int = 1
    year_month: int = 1


class Calendar:
    """The windows of one period in one time zone. Remembers the last window only."""

    def __init__(self, period: Period, zone: datetime.tzinfo, start: "Start | None" = None) -> None:
        self._period = period
        self._zone = zone
        self._start = start or Start()
        self._last = Window(name="", starts_at_ms=0, ends_at_ms=0)

    def window(self, at_ms: int) -> Window:
        """The window that holds an instant."""
        last = self._last
        if last.starts_at_ms <= at_ms and (last.ends_at_ms is None or at_ms < last.ends_at_ms):
            return last
        self._last = found = self._find(at_ms)
        return found

    def steady(self, at_ms: int) -> tuple[int, int]:
        """The bounds of the window."""
        window = self.window(at_ms)
        return window.starts_at_ms, 2**62 if window.ends_at_ms is None else window.ends_at_ms

    def _find(self, at_ms: int) -> Window:
        if self._period in ("total", "session"):
            return Window(name="all", starts_at_ms=-(2**62), ends_at_ms=None)
        if self._period in _CLOCK_S:
            return _clock_window(self._period, self._zone, at_ms)
        local = datetime.datetime.fromtimestamp(at_ms // 1000, self._zone).replace(tzinfo=None)
        first = self._first((local - datetime.timedelta(hours=self._start.day_hour)).date())
        # Where clocks go back over the start of a day, local dates do not rise with time: the bounds decide.
        while at_ms >= self._instant(self._next(first)):
            first = self._next(first)
        while at_ms < self._instant(first):
            first = self._first(first - _DAY)
        return Window(
            name=self._name(first), starts_at_ms=self._instant(first), ends_at_ms=self._instant(self._next(first))
        )

    def _instant(self, day: datetime.date) -> int:
        """The first instant of a local day; an hour skipped by a clock change is the instant of that change."""
        local = datetime.datetime(day.year, day.month, day.day, self._start.day_hour, tzinfo=self._zone)
        return int(local.timestamp()) * 1000

    def _first(self, day: datetime.date) -> datetime.date:
        """The first day of the window that holds a day."""
        if self._period == "day":
            return day
        if self._period == "week":
            return day - _DAY * ((day.weekday() - _WEEKDAYS.index(self._start.week_starts)) % 7)
        months = day.year * 12 + day.month - 1
        if day < self._month(months):
            months -= 1
        return self._month(months - (months - self._start.year_month + 1) % _MONTHS[self._period])

    def _next(self, first: datetime.date) -> datetime.date:
        if self._period in ("day", "week"):
            return first + _DAY * (7 if self._period == "week" else 1)
        return self._month(first.year * 12 + first.month - 1 + _MONTHS[self._period])

    def _month(self, months: int) -> datetime.date:
        """The day on which a month begins; ``months`` since the beginning of the year 0."""
        year, month = divmod(months, 12)
        return datetime.date(year, month + 1, min(self._start.month_day, calendar.monthrange(year, month + 1)[1]))

    def _name(self, first: datetime.date) -> str:
        """Names of usual windows are the usual ones; others are the first day and the length, as ISO 8601 has it."""
        usual = msgspec.structs.replace(self._start, week_starts="monday") == Start()
        if usual and self._period == "day":
            return first.isoformat()
        if usual and self._period == "week" and self._start.week_starts == "monday":
            year, week, _ = first.isocalendar()
            return f"{year:04}-W{week:02}"
        if usual and self._period == "month":
            return f"{first.year:04}-{first.month:02}"
        if usual and self._period == "quarter":
            return f"{first.year:04}-Q{first.month // 3 + 1}"
        if usual and self._period == "year":
            return f"{first.year:04}"
        hour = f"T{self._start.day_hour:02}" if self._start.day_hour else ""
        return f"{first.isoformat()}{hour}/{_ISO[self._period]}"


class Rolling:
    """The last ``length_ms``, counted in parts of a sixtieth. Remembers the last window only.

    A hold goes to the part of its instant; the parts within reach on both sides count against the limit. So no
    interval of the length ever carries more than the limit, in whatever order the calls are reserved and whatever
    the clocks of several machines say. Use counts for one part longer than the length.
    """

    def __init__(self, length_ms: int) -> None:
        self._part_ms = max(1_000, length_ms // PARTS)
        self._reach = -(-length_ms // self._part_ms)
        whole_s, rest = divmod(self._part_ms, 1000)
        self._unit = f"{whole_s}s" if not rest else f"{self._part_ms}ms"
        self._index = -1
        self._last = Window(name="", starts_at_ms=0, ends_at_ms=0)

    def window(self, at_ms: int) -> Window:
        """The parts that count at an instant."""
        index = at_ms // self._part_ms
        if index != self._index:
            reach = self._reach
            near = (*range(index - reach, index), *range(index + 1, index + reach + 1))
            self._last = Window(
                name=self._name(index),
                starts_at_ms=(index - reach) * self._part_ms,
                ends_at_ms=(index + reach + 1) * self._part_ms,
                also=tuple([self._name(other) for other in near]),
            )
            self._index = index
        return self._last

    def steady(self, at_ms: int) -> tuple[int, int]:
        """The bounds of the newest part."""
        starts = at_ms // self._part_ms * self._part_ms
        return starts, starts + self._part_ms

    def _name(self, index: int) -> str:
        return f"{self._unit}.{index}"


def windows_of(budget: Budget) -> Windows | None:
    """The windows of a budget; None for ``per = "request"``. Raises ``ValueError`` for unknown zones."""
    if budget.per == "request":
        return None
    if budget.per == "rolling":
        return Rolling(budget.length_ms or ROLLING_MS_MIN)
    return Calendar(budget.per, zone_of(budget.timezone), start_of(budget))


def start_of(budget: Budget) -> Start:
    """Where a budget's calendar windows begin."""
    return Start(budget.day_hour, budget.week_starts, budget.month_day, budget.year_month)


def window_of(budget: Budget, at_ms: int) -> Window | None:
    """The budget's window at an instant; None for limits per request."""
    windows = windows_of(budget)
    return None if windows is None else windows.window(at_ms)


def zone_of(name: str) -> datetime.tzinfo:
    """Raises ``ValueError`` for a name that the time zone database does not have."""
    if name == "UTC":
        return datetime.UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError) as error:
        raise ValueError(f"unknown time zone {name!r}; use an IANA name such as 'Europe/Berlin'") from error


def _clock_window(period: Period, zone: datetime.tzinfo, at_ms: int) -> Window:
    """An hour or minute of the local clock. A change of the clock within it ends it and begins another."""
    size = _CLOCK_S[period]
    at_s = at_ms // 1000
    offset = _offset_s(zone, at_s)
    starts = at_s - (at_s + offset) % size
    ends = starts + size
    if _offset_s(zone, starts) != offset:
        starts = _changed_s(zone, starts, at_s)
    if _offset_s(zone, ends) != offset:
        ends = _changed_s(zone, at_s, ends)
    name = f"{datetime.datetime.fromtimestamp(starts, datetime.UTC):%Y-%m-%dT%H:%MZ}/PT1{period[0].upper()}"
    return Window(name=name, starts_at_ms=starts * 1000, ends_at_ms=ends * 1000)


def _offset_s(zone: datetime.tzinfo, at_s: int) -> int:
    offset = datetime.datetime.fromtimestamp(at_s, zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def _changed_s(zone: datetime.tzinfo, before: int, after: int) -> int:
    """The first second after ``before`` that has the offset of ``after``; there is one change between them."""
    offset = _offset_s(zone, after)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset_s(zone, middle) == offset:
            after = middle
        else:
            before = middle
    return after
