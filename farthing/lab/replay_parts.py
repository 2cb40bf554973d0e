"""Replays as work to be shared out: a job is one part of a log under one policy, and parts are added up again.

A :class:`Job` is plain data, so that any engine can carry it to a worker: processes, Dask, Ray. The worker's function
is ``farthing.bootstrap.replay_part``.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import msgspec

from farthing.config import Settings
from farthing.core.dimensions import scope_value
from farthing.core.policy import Budget, Policy
from farthing.core.price_book import Sheet
from farthing.core.pricing_ceiling import Worst
from farthing.core.types import Bounds, Charge, Exchange, Scope, Target, Usage
from farthing.lab.compare import CHANGED_MAX, Bill, Changed, merged
from farthing.lab.replay_books import Levels
from farthing.lab.replay_lanes import Quick
from farthing.lab.replay_state import Stand, decoded, encoded
from farthing.ports.prices import Prices

_ALWAYS: Final = (-(2**62), 2**62)
SINGLES: Final = ("request",)
KEEP_EVERY: Final = 200_000
"""Calls between two records of where a replay stands."""
PARTS: Final = ("org", "team", "project", "customer", "user", "key", "session", "feature")


class TrafficLog(Protocol):
    """A traffic log, wherever it is."""

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]: ...


@runtime_checkable
class Written(Protocol):
    """A traffic log that also gives exchanges as they are written, so that a reader may take a part of them."""

    def written(self, *, since_ms: int, until_ms: int, after: str = "") -> Iterator[tuple[str, bytes]]:
        """(request, exchange as JSON), in the order of ``exchanges``."""
        ...

    def surveyed(self, *, since_ms: int, until_ms: int) -> tuple[int, int]:
        """(exchanges of a period, milliseconds that the longest took)."""
        ...


class _Whose(msgspec.Struct, frozen=True):
    """As much of an exchange as says whose it is."""

    scope: Scope


class _Begins(msgspec.Struct, frozen=True):
    """As much of an exchange as says how its prompt begins."""

    blocks: tuple[str, ...] = ()


_exchange = msgspec.json.Decoder(Exchange)
_whose = msgspec.json.Decoder(_Whose)
_begins = msgspec.json.Decoder(_Begins)


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """What is replayed: [since, until), and at which prices (``now_ms``: today's; None: those of then)."""

    since_ms: int
    until_ms: int
    now_ms: int | None = None


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What must be known of a log before it is replayed."""

    requests: int
    longest_ms: int
    """No call took longer."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One replay's result."""

    bill: Bill
    changed: list[Changed]
    plain: int = 0
    """Calls that went the short way."""
    why: str = ""
    """Why none could; empty: those of a plain course did."""
    levels: Levels = ()
    """How far this part brought the counters of budgets that parts share."""
    orphans: int = 0
    """Calls that a cache had answered with what no call of this part had been answered, so they were estimated."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a log under one policy."""

    settings: Settings
    period: Period
    longest_ms: int
    """No call of the log took longer."""
    source: str = ""
    """Where the log is: see ``farthing.bootstrap.open_log``."""
    dimension: str = ""
    """What parts are told apart by; see :func:`partition`."""
    shared: tuple[str, ...] = ()
    """Budgets that count across parts; see ``replay_apart``."""
    part: int = 0
    parts: int = 1
    state: str = ""
    """A file that says where this part stands; empty: nothing is kept."""
    key: str = ""
    """Names the replay in that file."""
    keep_every: int = KEEP_EVERY


class AsOf:
    """A price book at one instant, whatever the time of the call."""

    def __init__(self, prices: Prices, at_ms: int) -> None:
        self._prices = prices
        self._at_ms = at_ms

    @property
    def ref(self) -> str:
        return self._prices.ref

    def charge(self, usage: Usage, target: Target, *, at_ms: int) -> Charge:
        return self._prices.charge(usage, target, at_ms=self._at_ms)

    def ceiling(self, bounds: Bounds, target: Target, *, at_ms: int) -> int | None:
        return self._prices.ceiling(bounds, target, at_ms=self._at_ms)

    def sheet(self, usage: Usage, target: Target, *, at_ms: int) -> Sheet | None:
        prices = self._prices
        found = prices.sheet(usage, target, at_ms=self._at_ms) if isinstance(prices, Quick) else None
        return None if found is None else found._replace(from_ms=_ALWAYS[0], to_ms=_ALWAYS[1])

    def worst(self, bounds: Bounds, target: Target, *, at_ms: int) -> Worst | None:
        prices = self._prices
        found = prices.worst(bounds, target, at_ms=self._at_ms) if isinstance(prices, Quick) else None
        return None if found is None else found._replace(from_ms=_ALWAYS[0], to_ms=_ALWAYS[1])

    def context_window(self, target: Target) -> int | None:
        return self._prices.context_window(target)


def mixed(base: Settings, other: Settings, sections: Iterable[str]) -> Settings:
    """``base`` with these sections of the other policy. ``providers`` is a section too."""
    on = set(sections)
    policy = msgspec.structs.replace(
        base.policy, **{name: getattr(other.policy, name) for name in on if name != "providers"}
    )
    providers = other.providers if "providers" in on else base.providers
    return msgspec.structs.replace(base, policy=policy, providers=providers)


def differing(base: Settings, other: Settings) -> list[str]:
    """The sections in which two policies differ, in the order in which calls meet them."""
    names = [name for name in Policy.__struct_fields__ if name not in ("version", "log")]
    order = ("routes", "levers", "cache", "limits", "budgets", "unpriced", "retries", "fallbacks")
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    found = [name for name in names if getattr(base.policy, name) != getattr(other.policy, name)]
    return [*found, "providers"] if other.providers != base.providers else found


def partition(policy: Policy) -> str:
    """A dimension along which calls share nothing; ``request``: they share nothing at all; empty: there is none.

    Calls share what budgets count, what caches keep and what routes remember of a conversation.
    """
    able = list(PARTS)
    free = not policy.cache and not policy.routes
    for budget in policy.budgets:
        if budget.per in SINGLES:
            continue
        free = False
        able = [name for name in able if name in splits_of(budget)]
    for route in policy.cache:
        able = [name for name in able if name in route.partition] if route.use else able
    if policy.routes:
        able = [name for name in able if name not in ("session", "feature")]
    return "request" if free else able[0] if able else ""


def splits_of(budget: Budget) -> tuple[str, ...]:
    """The dimensions that split a budget's counters."""
    return (*budget.each, "session") if budget.per == "session" else budget.each


def parts_of(job: Job, count: int) -> tuple[Job, ...]:
    """The job in so many parts, or itself where calls share something across any parts."""
    if count < 2 or not job.dimension:
        return (in_one(job),)
    state = f"{job.state}.{{}}of{count}" if job.state else ""
    return tuple(
        [msgspec.structs.replace(job, part=part, parts=count, state=state.format(part + 1)) for part in range(count)]
    )


def in_one(job: Job) -> Job:
    """The job, not to be split."""
    return msgspec.structs.replace(job, dimension="", shared=()) if job.shared else job


def added(found: Sequence[Found]) -> Found:
    """Results of all parts as one."""
    changed = sorted(
        (one for each in found for one in each.changed),
        key=lambda one: (abs(one.after_nusd - one.before_nusd), one.request_id),
        reverse=True,
    )
    return Found(
        bill=merged([each.bill for each in found]),
        changed=changed[:CHANGED_MAX],
        plain=sum(each.plain for each in found),
        why=next((each.why for each in found if each.why), ""),
    )


def within(log: TrafficLog, period: Period, *, after: str = "") -> Iterator[Exchange]:
    """The traffic of a period, imported traces too; ``after``: what follows this request."""
    since_ms, until_ms = period.since_ms, period.until_ms
    if isinstance(log, Written):
        decode = _exchange.decode
        for _, body in log.written(since_ms=since_ms, until_ms=until_ms, after=after):
            yield decode(body)
        return
    for one in log.exchanges(since_ms=since_ms, after=after):
        if one.received_at_ms < until_ms:
            yield one


def survey(log: TrafficLog, period: Period) -> Survey:
    """Counts a period's requests, and finds the longest."""
    if isinstance(log, Written):
        requests, longest_ms = log.surveyed(since_ms=period.since_ms, until_ms=period.until_ms)
        return Survey(requests=requests, longest_ms=longest_ms)
    requests = longest_ms = 0
    for one in within(log, period):
        requests += 1
        if one.latency_ms > longest_ms:
            longest_ms = one.latency_ms
    return Survey(requests=requests, longest_ms=longest_ms)


def mine(log: TrafficLog, job: Job, *, after: str = "") -> Iterator[Exchange]:
    """The exchanges of a job's part; of the others no more is read than whose they are."""
    if job.parts == 1:
        return within(log, job.period, after=after)
    if isinstance(log, Written):
        return _of_part(log, job, after)
    whole = within(log, job.period, after=after)
    return (one for one in whole if part_of(one, job.dimension, job.parts) == job.part)


def _of_part(log: "Written", job: Job, after: str) -> Iterator[Exchange]:
    period, dimension, parts, part = job.period, job.dimension, job.parts, job.part
    for request_id, body in log.written(since_ms=period.since_ms, until_ms=period.until_ms, after=after):
        if dimension == "request":
            blocks = _begins.decode(body).blocks
            value = blocks[0] if blocks else request_id
        else:
            value = scope_value(_whose.decode(body).scope, dimension)
        if _hashed(value) % parts == part:
            yield _exchange.decode(body)


def part_of(exchange: Exchange, dimension: str, parts: int) -> int:
    """The part that a request belongs to: all requests of one value are in one part, on every machine.

    Requests that share nothing but how their prompts begin share that in the providers' caches: they are in one part.
    """
    if dimension == "request":
        return _hashed(exchange.blocks[0] if exchange.blocks else exchange.request_id) % parts
    return _hashed(scope_value(exchange.scope, dimension)) % parts


@lru_cache(maxsize=20_000)
def _hashed(value: str) -> int:
    return int.from_bytes(hashlib.blake2b(value.encode("utf-8", "replace"), digest_size=8).digest())


def key_of(settings: Settings, period: Period, ref: str) -> str:
    """Names a replay: the same policy, providers, prices and period give the same result."""
    text = repr((settings.policy.ref, settings.providers, period, ref))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class OnDisk:
    """Where one replay stands, in a file that is replaced in one act."""

    def __init__(self, path: Path, key: str, *, every: int = KEEP_EVERY) -> None:
        """Goes on from the file where it is this replay's. Raises ``ConfigError`` for a file of something else."""
        self.key = key
        self.stand: Stand | None = None
        self._path = path
        self._every = every
        if path.exists():
            found = decoded(path.read_bytes(), source=str(path))
            self.stand = found if found.key == key else None
        self._next = (self.stand.begun if self.stand is not None else 0) + every

    def due(self, begun: int) -> bool:
        """So many calls have begun since the last record."""
        return begun >= self._next

    def save(self, stand: Stand) -> None:
        """Replaces the record."""
        self._next = stand.begun + self._every
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.write_bytes(encoded(stand))
        fresh.replace(self._path)

    def forget(self) -> None:
        """The replay has ended."""
        self._path.unlink(missing_ok=True)
