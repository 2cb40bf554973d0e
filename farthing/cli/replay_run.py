"""Running replays for the command line: which policies, over which part of the log, in how many processes."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final, Literal, Protocol, cast

import msgspec

from farthing.cli.context import closed
from farthing.config import Settings
from farthing.core.dimensions import scope_value
from farthing.core.policy import Policy
from farthing.core.types import Bounds, Charge, Exchange, Target, Usage
from farthing.engine.services import Services
from farthing.lab.compare import Bill, Changed, Tally, merged
from farthing.lab.estimate import Estimator
from farthing.lab.replay import Log, replay
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_time import VirtualLoop
from farthing.ports.books import Ledger
from farthing.ports.prices import Prices

SINGLES: Final = ("request",)
_PARTS: Final = ("org", "team", "project", "customer", "user", "key", "session", "feature")

Book = Literal["then", "now"]


class ReplayStores(Protocol):
    """What replays need of ``farthing.bootstrap``."""

    def open_ledger(self, settings: Settings) -> Ledger: ...

    def price_book(self, settings: Settings) -> Prices: ...

    def replay_services(
        self, settings: Settings, loop: VirtualLoop, provider: Provider, log: Log, *, prices: Prices | None = None
    ) -> Services: ...


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """What is replayed: [since, until), and at which prices (``now_ms``: today's; None: those of then)."""

    since_ms: int
    until_ms: int
    now_ms: int | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One replay's result."""

    bill: Bill
    changed: list[Changed]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the log under one policy, for a process of its own."""

    settings: Settings
    period: Period
    dimension: str
    part: int = 0
    parts: int = 1


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
    able = list(_PARTS)
    free = not policy.cache and not policy.routes
    for budget in policy.budgets:
        if budget.per in SINGLES:
            continue
        free = False
        splits = {*budget.each, *(("session",) if budget.per == "session" else ())}
        able = [name for name in able if name in splits]
    for route in policy.cache:
        able = [name for name in able if name in route.partition] if route.use else able
    if policy.routes:
        able = [name for name in able if name not in ("session", "feature")]
    return "request" if free else able[0] if able else ""


def run(job: Job, progress: Callable[[int], None] | None = None) -> Found:
    """One replay. Also what each worker process does."""
    import importlib

    stores = cast("ReplayStores", importlib.import_module("farthing.bootstrap"))
    settings, period = job.settings, job.period
    book = stores.price_book(settings)
    prices: Prices = book if period.now_ms is None else cast("Prices", AsOf(book, period.now_ms))
    estimator = Estimator()
    with closed(stores.open_ledger(settings)) as ledger:
        estimator.learn(logged(ledger, period))
        tally = Tally(estimator)
        replay(
            (one for one in logged(ledger, period) if job.parts == 1 or _part(one, job) == job.part),
            lambda loop, provider, log: stores.replay_services(settings, loop, provider, log, prices=prices),
            tally,
            estimate=estimator.usage,
            progress=progress,
            longest_ms=estimator.longest_ms,
        )
    return Found(bill=tally.finish(), changed=tally.changed())


def spread(job: Job, jobs: int) -> Found:
    """The same in several processes, one part of the log each."""
    parts = [msgspec.structs.replace(job, part=part, parts=jobs) for part in range(jobs)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(run, parts))
    changed = sorted(
        (one for each in found for one in each.changed), key=lambda one: -abs(one.after_nusd - one.before_nusd)
    )
    return Found(bill=merged([each.bill for each in found]), changed=changed[:20])


def logged(ledger: Ledger, period: Period) -> Iterator[Exchange]:
    """The traffic of a period that came through this gateway, imported traces too."""
    return (one for one in ledger.exchanges(since_ms=period.since_ms) if one.received_at_ms < period.until_ms)


class Kept:
    """Results of finished replays on disk, so that a long comparison that was interrupted goes on."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Found] = {}
        if path is not None and path.exists():
            self._known = msgspec.json.decode(path.read_bytes(), type=dict[str, Found])

    def get(self, key: str) -> Found | None:
        """A result of before."""
        return self._known.get(key)

    def put(self, key: str, found: Found) -> None:
        """Keeps a result; the file is replaced in one act."""
        self._known[key] = found
        if self._path is not None:
            fresh = self._path.with_name(self._path.name + ".new")
            fresh.write_bytes(msgspec.json.encode(self._known))
            fresh.replace(self._path)


def key_of(settings: Settings, period: Period, ref: str) -> str:
    """Names a replay: the same policy, providers, prices and period give the same result."""
    text = repr((settings.policy.ref, settings.providers, period, ref))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _part(exchange: Exchange, job: Job) -> int:
    value = exchange.request_id if job.dimension == "request" else scope_value(exchange.scope, job.dimension)
    return int.from_bytes(hashlib.blake2b(value.encode("utf-8", "replace"), digest_size=8).digest()) % job.parts
