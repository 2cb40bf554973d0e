"""Alerts: which lines a counter has crossed, how urgent that is, and when people may be told. Pure.

An alert is an edge, never a level: it happens once per counter, window, limit and line, and again only in a new
window or under a new limit. What makes it happen once is the key; whoever writes a key first owns the alert.
"""

import datetime
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, Literal
from zoneinfo import ZoneInfo

import msgspec

Severity = Literal["info", "warning", "critical"]
AlertKind = Literal["threshold", "forecast", "exhausted", "velocity", "incident", "route", "test"]

SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "critical")
"""Least urgent first."""

DEFAULT_PERCENTS: Final = (50, 75, 90, 100)
WARNING_PERCENT: Final = 90
CRITICAL_PERCENT: Final = 100

FORECAST_SHARE: Final = 10
"""A window says nothing about its end before one part in this many of it has passed."""

_DAY_MS: Final = 86_400_000


class Contributor(msgspec.Struct, frozen=True, kw_only=True):
    """Who used a counter: the key, the feature and the model of calls, and how much they used, in its unit."""

    key: str
    feature: str
    model: str
    amount: int


class Alert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that people should know, once. Amounts are in ``unit`` (nano-USD for ``usd``)."""

    id: str
    """The same for everyone who sees the same crossing; receivers may drop what they have by it."""
    key: str
    """What is claimed: first writer wins."""
    kind: AlertKind
    severity: Severity
    budget: str = ""
    counter: str = ""
    window: str = ""
    unit: str = ""
    limit: int = 0
    used: int = 0
    """Booked in the window when the line was crossed."""
    percent: int = 0
    """The line, for thresholds."""
    hard: bool = True
    at_ms: int
    resets_at_ms: int | None = None
    projected: int | None = None
    """Use at the window's end if it goes on as it has so far; None: too early to say, or no end."""
    exhausted_at_ms: int | None = None
    """When the limit will be reached at the window's pace; None: not in this window."""
    per_minute: int | None = None
    """Use in the last minute."""
    usual_per_minute: int | None = None
    """Mean use per minute before; None: not known yet."""
    top: tuple[Contributor, ...] = ()
    """Largest first, as far as the worker that raised the alert has seen them."""
    action: str = ""
    """What Farthing does from here on, beside telling: ``degrade``, ``throttle``, ``block``…"""
    incident: str = ""
    """The anomaly that this tells of: ``used`` is then what it cost above ``expected``, ``counter`` its slice."""
    slice: tuple[tuple[str, str], ...] = ()
    anomaly: str = ""
    """``spike``, ``step``, ``leak``."""
    began_ms: int | None = None
    expected: int | None = None
    projected_days: int = 0
    """``projected`` is what so many more days of an incident would add."""
    grew: str = ""
    """The one part of the slice that explains most of the growth."""
    examples: tuple[str, ...] = ()
    """Requests that show it."""
    route: str = ""
    """The route whose roll-out this tells of."""
    event: str = ""
    """``promoted``, ``rolled_back``, ``began_again``, ``frozen``, ``thawed``, ``model_changed``."""
    before: str = ""
    after: str = ""
    why: str = ""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One share of a limit that is worth an alert, and what else happens there."""

    percent: int
    action: str = ""


class QuietHours(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of every day in which only urgent alerts are delivered; minutes after midnight, over midnight or not."""

    starts: int
    ends: int
    timezone: str = "UTC"
    passes: Literal["critical", "warning", "nothing"] = "critical"
    """The least severity that is delivered all the same."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How a window has gone so far."""

    starts_at_ms: int
    ends_at_ms: int | None
    now_ms: int
    used: int


def crossed(used: int, limit: int, lines: Iterable[Line], fired: Iterable[int]) -> tuple[Line, ...]:
    """The lines at or under ``used`` that have not fired in this window, lowest first.

    A limit of zero has no shares: the refusals it causes are told as exhaustion.
    """
    done = set(fired)
    if limit <= 0:
        return ()
    return tuple(
        line
        for line in sorted(lines, key=lambda line: line.percent)
        if line.percent not in done and used * 100 >= line.percent * limit
    )


def severity_of(percent: int) -> Severity:
    """``info`` below 90 %, ``warning`` below 100 %, then ``critical``."""
    if percent >= CRITICAL_PERCENT:
        return "critical"
    return "warning" if percent >= WARNING_PERCENT else "info"


def projected(pace: Pace) -> int | None:
    """Use at the window's end at its mean pace so far; None in its first tenth and for windows without an end."""
    if pace.ends_at_ms is None:
        return None
    length = pace.ends_at_ms - pace.starts_at_ms
    elapsed = min(pace.now_ms, pace.ends_at_ms) - pace.starts_at_ms
    if length <= 0 or elapsed * FORECAST_SHARE < length:
        return None
    return max(pace.used, pace.used * length // elapsed)


def exhausted_at(pace: Pace, limit: int) -> int | None:
    """When the limit is reached at the window's mean pace so far; None: not in this window, or it has been."""
    elapsed = pace.now_ms - pace.starts_at_ms
    if pace.used <= 0 or pace.used >= limit or elapsed <= 0:
        return None
    at_ms = pace.now_ms + -(-(limit - pace.used) * elapsed // pace.used)
    return at_ms if pace.ends_at_ms is None or at_ms < pace.ends_at_ms else None


def will_exceed(used: int, limit: int, at_end: int | None) -> bool:
    """The forecast passes a limit that is not used up yet."""
    return at_end is not None and 0 < used < limit < at_end


def alert_key(kind: AlertKind, counter: str, window: str, unit: str, limit: int, percent: int = 0) -> str:
    """What is claimed for an alert. A new window and a changed limit are new keys: they re-arm it."""
    return f"{kind}|{percent}|{limit}|{unit}|{window}|{counter}"


def incident_key(incident: str) -> str:
    """What is claimed for an incident: it is told once."""
    return f"incident|{incident}"


def alert_id(key: str, at_ms: int = 0) -> str:
    """A short name for one alert; ``at_ms`` tells the incidents of a key that can happen again apart."""
    return "al-" + hashlib.sha256(f"{key}\n{at_ms}".encode()).hexdigest()[:24]


def at_least(severity: Severity, least: Severity) -> bool:
    """``severity`` is as urgent as ``least``, or more."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(least)


def deliver_at(severity: Severity, at_ms: int, quiet: QuietHours | None) -> int:
    """When an alert that happens now may be delivered: at once, or when the quiet hours end."""
    if quiet is None or quiet.starts == quiet.ends:
        return at_ms
    if quiet.passes != "nothing" and at_least(severity, quiet.passes):
        return at_ms
    zone: datetime.tzinfo = datetime.UTC if quiet.timezone == "UTC" else ZoneInfo(quiet.timezone)
    local = datetime.datetime.fromtimestamp(at_ms / 1000, zone)
    minute = local.hour * 60 + local.minute
    over = quiet.starts > quiet.ends
    inside = (minute >= quiet.starts or minute < quiet.ends) if over else quiet.starts <= minute < quiet.ends
    if not inside:
        return at_ms
    day = local.date() + datetime.timedelta(days=1 if over and minute >= quiet.starts else 0)
    end = datetime.datetime.combine(day, datetime.time(quiet.ends // 60, quiet.ends % 60), zone)
    # An end that a clock change skips or repeats is read as its earlier instant, never before now.
    return max(at_ms, int(end.timestamp() * 1000))


def retry_at(now_ms: int, tries: int, first_ms: int, *, give_up_after_ms: int) -> int | None:
    """When a delivery that failed ``tries`` times is tried again: 1, 2, 4 … 300 s later; None: it is given up."""
    at_ms = now_ms + min(1_000 * 2 ** min(max(tries, 1) - 1, 20), 300_000)
    return at_ms if at_ms - first_ms <= give_up_after_ms else None


def lasting_ms(starts_at_ms: int, ends_at_ms: int | None) -> int:
    """A window's length; windows without an end last for ever."""
    return 2**62 if ends_at_ms is None else max(0, ends_at_ms - starts_at_ms)


class Speed:
    """How fast one counter is used: the last sixty seconds, and the mean minute of the hour before them.

    Fed with increments; bounded in memory. Time goes by seconds of the caller's clock.
    """

    __slots__ = ("_last_s", "_minute_s", "_minutes", "_seconds", "_this_minute")

    MINUTES: Final = 60
    LEARNED: Final = 10
    """Minutes that must have passed before "usual" means anything."""
    JITTER_S: Final = 2
    """A clock that goes back further was set: what was used in the last minute by the old time moves with it."""

    def __init__(self) -> None:
        self._seconds: list[int] = [0] * 60
        self._last_s = -1
        self._minute_s = -1
        self._this_minute = 0
        self._minutes: list[int] = []

    def add(self, now_ms: int, amount: int) -> None:
        """``amount`` more was used up to now."""
        self._advance(now_ms // 1000)
        self._seconds[self._last_s % 60] += amount
        self._this_minute += amount

    def per_minute(self, now_ms: int) -> int:
        """Use in the last sixty seconds."""
        self._advance(now_ms // 1000)
        return sum(self._seconds)

    def usual(self, now_ms: int) -> int | None:
        """Mean use of the complete minutes before this one, an hour of them at most; None: too few yet."""
        self._advance(now_ms // 1000)
        if len(self._minutes) < self.LEARNED:
            return None
        return sum(self._minutes) // len(self._minutes)

    def _set_back(self, by: int) -> None:
        self._seconds = [self._seconds[(place + by) % 60] for place in range(60)]
        self._last_s -= by
        self._minute_s -= by

    def _advance(self, second: int) -> None:
        if self._last_s < 0:
            self._last_s = second
            self._minute_s = second
            return
        if second < self._last_s - self.JITTER_S:
            self._set_back(self._last_s - second)
        for passed in range(self._last_s + 1, min(second, self._last_s + 60) + 1):
            self._seconds[passed % 60] = 0
        self._last_s = max(self._last_s, second)
        while second - self._minute_s >= 60:
            self._minutes.append(self._this_minute)
            self._this_minute = 0
            self._minute_s += 60
            if len(self._minutes) > self.MINUTES:
                del self._minutes[0]
            if second - self._minute_s >= 60 * self.MINUTES:  # a long silence: an hour of zeros is all that matters
                self._minutes = [0] * self.MINUTES
                self._minute_s = second


class Top:
    """The largest contributors to a sum in a fixed number of slots (Space-Saving): none with more than one part in
    ``slots`` of the sum is ever missed, and no amount is under-stated."""

    __slots__ = ("_amounts", "_slots")

    def __init__(self, slots: int = 8) -> None:
        self._slots = slots
        self._amounts: dict[tuple[str, str, str], int] = {}

    def add(self, who: tuple[str, str, str], amount: int) -> None:
        """``who`` is (key, feature, model)."""
        amounts = self._amounts
        if who in amounts:
            amounts[who] += amount
        elif len(amounts) < self._slots:
            amounts[who] = amount
        else:
            least = min(amounts, key=amounts.__getitem__)
            amounts[who] = amounts.pop(least) + amount

    def largest(self, count: int = 3) -> tuple[Contributor, ...]:
        """The largest, first."""
        ranked = sorted(self._amounts.items(), key=lambda pair: (-pair[1], pair[0]))
        return tuple(
            Contributor(key=key, feature=feature, model=model, amount=amount)
            for (key, feature, model), amount in ranked[:count]
        )


def is_muted(alert: Alert, mutes: Sequence[tuple[str, int]]) -> bool:
    """The alert's budget or counter is muted at the alert's time; ``mutes`` are (name, until_ms)."""
    return any(name in (alert.budget, alert.counter) and alert.at_ms < until for name, until in mutes)
