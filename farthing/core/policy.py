"""The policy: what is allowed, at what cost, and what happens when something goes wrong. Pure data.

A policy holds no callables and reads no clock; decisions are functions of (policy, request, facts). Its ``ref`` is
the hash of its canonical JSON, and every ledger entry carries the ref it was decided under.
"""

import hashlib
from typing import Literal

import msgspec

from farthing.core.policy_cache import CacheRoute
from farthing.core.policy_levers import AnyLever
from farthing.core.policy_routes import Route
from farthing.core.types import LimitUnit

Period = Literal[
    "request", "session", "minute", "hour", "day", "week", "month", "quarter", "year", "total", "rolling"
]
"""The window of a limit. ``request`` limits bind each call by itself and need no counter; ``session`` limits count a
session from its first call on and never begin anew; ``rolling`` ones count the last ``length_ms``."""

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]

ErrorClass = Literal["rate_limited", "overloaded", "timed_out", "connection", "model_not_found"]


class Threshold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens once a share of a budget's limit is used. The limit itself needs none: it refuses when hard."""

    percent: int
    """Of the limit, from 1. Actions count what is booked and held; alerts what is booked."""
    action: Literal["notify", "degrade", "cap", "queue", "throttle", "block"] = "notify"
    """Tell people; use a cheaper model (``to``); cap the output at what is left; leave deferrable calls to the batch
    queue; slow down (``per_minute``); refuse."""
    to: str = ""
    """The model or tier that ``degrade`` goes to."""
    per_minute: int = 0
    """Requests a minute that ``throttle`` lets through on each counter."""


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An amount that counts from one instant up to another, itself excluded: prepaid credit or a temporary raise."""

    unit: LimitUnit = "usd"
    amount: int
    """Nano-USD for ``usd``, a count otherwise."""
    from_ms: int | None = None
    """None: always did."""
    until_ms: int | None = None
    """None: for good."""


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on whoever matches, one counter per distinct value of ``each``."""

    name: str
    per: Period
    limits: tuple[tuple[LimitUnit, int], ...] = ()
    """(unit, limit): nano-USD for ``usd``, counts otherwise."""
    each: tuple[str, ...] = ()
    """Dimensions that split the budget: ("user",) gives every user a counter of their own."""
    match: tuple[tuple[str, str], ...] = ()
    """Dimensions that must be equal for it to apply; ``tag:<name>`` for tags; in ``model``, ``*`` and ``?`` match."""
    timezone: str = "UTC"
    """IANA zone in which hours, days, weeks, months, quarters and years begin."""
    day_hour: int = 0
    """The local hour, 0 to 23, at which days, and all longer windows, begin."""
    week_starts: Weekday = "monday"
    month_day: int = 1
    """The day on which months, quarters and years begin, 1 to 31; the last day of a month that has fewer."""
    year_month: int = 1
    """The month, 1 to 12, in which the (fiscal) year begins; quarters follow it every three months."""
    length_ms: int | None = None
    """How far back a ``rolling`` limit counts, a minute to 366 days."""
    credits: tuple[Grant, ...] = ()
    """Prepaid, with ``per = "total"``: use is paid from grants that run when it is made, the next to expire first."""
    raises: tuple[Grant, ...] = ()
    """Added to the limits while they last."""
    hard: bool = True
    """A soft budget ("shadow") is counted and reported, and says what it would have refused, but refuses nothing."""
    thresholds: tuple[Threshold, ...] = ()


class Retries(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an upstream try may be repeated: only before its first byte, only for the listed failures."""

    attempts_max: int = 3
    """Tries per target, the first one included."""
    backoff_ms: int = 250
    """First pause; doubles each time, with full jitter."""
    backoff_ms_max: int = 8_000
    on: tuple[ErrorClass, ...] = ("rate_limited", "overloaded", "connection")


class Fallback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a request for ``model`` goes when its own target keeps failing."""

    model: str
    """A model name pattern (``*`` and ``?``)."""
    to: tuple[str, ...]
    """Models tried in order; ``provider/model`` names the provider too."""
    on: tuple[ErrorClass, ...] = ("rate_limited", "overloaded", "timed_out", "connection")


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds on any single request, whoever makes it."""

    body_bytes_max: int = 20 * 1024 * 1024
    output_tokens_max: int | None = None
    """Larger or missing ``max_tokens`` are set to this; None leaves bodies alone."""
    output_tokens_assumed: int = 32_768
    """What a ceiling assumes when neither caller nor policy caps the output and the model's own cap is unknown."""
    timeout_ms: int = 600_000
    """Deadline of one request over all its tries."""
    first_byte_timeout_ms: int = 300_000
    idle_timeout_ms: int = 120_000
    """Longest silence inside a stream."""
    connect_timeout_ms: int = 10_000
    unknown_headers: Literal["warn", "refuse"] = "warn"
    """What a header ``x-farthing-…`` that means nothing leads to: a warning in the answer, or a refusal."""


class Unpriced(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What USD budgets do with a model whose price is unknown."""

    action: Literal["refuse", "ceiling", "allow"] = "refuse"
    """Only matters where a hard USD budget applies: refuse the call, or hold and count it at the ceiling rates."""
    input_usd_per_million: str = "20"
    output_usd_per_million: str = "100"


class ExchangeLog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether there is a traffic log, and what it keeps of prompts and answers."""

    enabled: bool = True
    """False: only the ledger is written; whatever reads the traffic log has nothing to read."""
    text: Literal["none", "redacted", "full"] = "none"
    retention_days: int = 30
    redact: tuple[str, ...] = ()
    """Extra regular expressions whose matches are replaced; common secrets and personal data always are."""


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides; the root of the ``[policy]`` part of ``farthing.toml``."""

    version: int = 1
    budgets: tuple[Budget, ...] = ()
    limits: Limits = Limits()
    retries: Retries = Retries()
    fallbacks: tuple[Fallback, ...] = ()
    unpriced: Unpriced = Unpriced()
    on_disconnect: Literal["drain", "cancel"] = "drain"
    """When the caller hangs up: read the answer to its end and learn the usage, or stop and estimate."""
    on_unknown_outcome: Literal["ceiling", "estimate"] = "ceiling"
    """What is booked for an attempt that may have been billed but never said so (time-outs, lost connections):
    the most it can have cost, so that budgets hold whatever the invoice says, or the likely cost. Either entry is
    marked ``estimated`` and reconciliation corrects it."""
    on_store_failure: Literal["refuse", "allow"] = "refuse"
    """When the ledger cannot be written: refuse calls, or serve them and book as soon as it can."""
    reservation_ttl_ms: int = 900_000
    """A hold whose worker died expires after this at the latest."""
    log: ExchangeLog = ExchangeLog()
    cache: tuple[CacheRoute, ...] = ()
    """Calls that may be answered from a cache; the first route that matches decides."""
    routes: tuple[Route, ...] = ()
    """Calls that may go to another model than the one asked for; the first route that matches decides."""
    levers: tuple[AnyLever, ...] = ()
    """What edits calls before they leave, one after the other."""

    @property
    def ref(self) -> str:
        """First 12 hex digits of the SHA-256 of the policy's canonical JSON."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:12]
