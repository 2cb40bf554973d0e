"""The services of a replay (the live pipeline with other ports), and one part of one from its log to its bill."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

from farthing.adapters.analytics import parquet_folder
from farthing.adapters.cache_memory import MemoryCache
from farthing.adapters.codecs import codec_of
from farthing.adapters.parquet_log import ParquetLog
from farthing.bootstrap.caching import tokenizer
from farthing.bootstrap.opening import open_ledger, open_reports
from farthing.bootstrap.pricing import price_book
from farthing.bootstrap.routing import routes_of, routing_of
from farthing.config import Settings, dialect_of
from farthing.core.budget import Budgets
from farthing.engine.actions import Actions
from farthing.engine.levers import Levers
from farthing.engine.routing import Routing
from farthing.engine.services import Services, Upstream
from farthing.engine.trials import Logged, Trials
from farthing.engine.watch import Watch
from farthing.lab.compare import Tally
from farthing.lab.estimate import Late
from farthing.lab.replay import Log, Unlogged, replay
from farthing.lab.replay_books import ReplayBooks, ReplayWatch
from farthing.lab.replay_cache import ReplayCaching
from farthing.lab.replay_parts import AsOf, Found, Job, OnDisk, TrafficLog, mine, within
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_routes import LoggedRouting
from farthing.lab.replay_time import VirtualLoop
from farthing.ports.prices import Prices
from farthing.ports.tokens import Tokenizer

_SCOPES_MAX: Final = 100_000
"""Scopes whose budgets a replay remembers: it is one process with nothing else in memory."""


def replay_services(
    settings: Settings,
    loop: VirtualLoop,
    provider: Provider,
    log: Log,
    *,
    prices: Prices | None = None,
    tokens: Tokenizer | None = None,
) -> Services:
    """The pipeline of a replay under the policy of ``settings``: the live one with other ports."""
    policy = settings.policy
    books = ReplayBooks(loop, provider)
    thresholds = {one.name: one.thresholds for one in policy.budgets if one.thresholds}
    acts = any(rule.action != "notify" for rules in thresholds.values() for rule in rules)
    watch = cast("Watch", ReplayWatch(books, thresholds))
    rated = prices or price_book(settings)
    budgets = Budgets(policy.budgets, memo_max=_SCOPES_MAX)
    upstreams = {
        one.name: Upstream(
            codec=provider.codec(codec_of(one, "")),
            transport=provider,
            include_usage=one.include_usage,
            speaks=dialect_of(one),
        )
        for one in settings.providers
    }
    routing = routing_of(settings)
    return Services(
        policy=policy,
        routing=_logged_routing(routing, provider, policy.ref) if routing is not None else None,
        routes=routes_of(settings),
        upstreams=upstreams,
        prices=rated,
        levers=Levers(policy.levers, rated) if policy.levers else None,
        budgets=budgets,
        books=books,
        clock=loop,
        tokens=tokens or tokenizer(settings),
        telemetry=log,
        background=Unlogged(books, loop, provider),
        salt=b"replay",
        policy_ref=policy.ref,
        actions=Actions(watch, thresholds) if acts else None,
        caching=ReplayCaching(policy.cache, MemoryCache(), provider) if policy.cache else None,
        request_limits=budgets.single,
        trials=Trials(Logged()),
    )


def _logged_routing(live: Routing, provider: Provider, policy_ref: str) -> LoggedRouting:
    return LoggedRouting(live.routes, live.serving, live.trained, logged=provider, policy_ref=policy_ref)


@contextmanager
def _opened(settings: Settings, source: str) -> Iterator[TrafficLog]:
    log = open_log(settings, source)
    try:
        yield log
    finally:
        close = getattr(log, "close", None)
        if close is not None:
            close()


def open_log(settings: Settings, source: str = "") -> TrafficLog:
    """The traffic log: this installation's, or an export's (``parquet``, ``parquet:DIR``), or ClickHouse's.

    Parquet is read a day at a time, in bounded memory, where reports would sort it whole.
    """
    kind, _, place = source.partition(":")
    if kind in ("", "ledger") and not place:
        return open_ledger(settings)
    if kind == "parquet":
        folder = Path(place) if place else parquet_folder(settings.analytics, Path(settings.home))
        return ParquetLog(folder)
    return open_reports(settings, source)


def replay_part(job: Job, progress: Callable[[int], None] | None = None) -> Found:
    """Replays one part of a log; what a worker does. With ``job.state`` it goes on from where it was interrupted."""
    settings, period = job.settings, job.period
    book = price_book(settings)
    prices: Prices = book if period.now_ms is None else cast("Prices", AsOf(book, period.now_ms))
    keep = OnDisk(Path(job.state), job.key, every=job.keep_every) if job.state else None
    after = keep.stand.last if keep is not None and keep.stand is not None else ""
    with _opened(settings, job.source) as log:
        estimator = Late(lambda: within(log, period))
        tally = Tally(estimator)
        done = replay(
            mine(within(log, period, after=after), job),
            lambda loop, provider, sink: replay_services(settings, loop, provider, sink, prices=prices),
            tally,
            estimate=estimator.usage,
            progress=progress,
            longest_ms=job.longest_ms,
            keep=keep,
        )
        bill = tally.finish()
    if keep is not None:
        keep.forget()
    return Found(bill=bill, changed=tally.changed(), plain=done.plain, why=done.why)
