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
from farthing.core.types import Target, Usage
from farthing.engine.routing import Routing
from farthing.engine.services import Services, Upstream
from farthing.engine.trials import Logged, Trials
from farthing.lab.compare import Tally
from farthing.lab.estimate import Late
from farthing.lab.replay import Log, Unlogged, replay
from farthing.lab.replay_acts import ReplayActions
from farthing.lab.replay_apart import thresholds_of
from farthing.lab.replay_books import ReplayBooks
from farthing.lab.replay_cache import LoggedCaching, ReplayCaching, SimilarCaching
from farthing.lab.replay_cascade import LoggedServing
from farthing.lab.replay_levers import LoggedLevers
from farthing.lab.replay_log import Logged as Call
from farthing.lab.replay_parts import AsOf, Found, Job, OnDisk, TrafficLog, mine, within
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_routes import LoggedPrefixes, LoggedRouting
from farthing.lab.replay_similar import LoggedRecall
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
        levers=LoggedLevers(policy.levers, rated, provider, policy.ref) if policy.levers else None,
        budgets=budgets,
        books=books,
        clock=loop,
        tokens=tokens or tokenizer(settings),
        telemetry=log,
        background=Unlogged(books, loop, provider),
        salt=b"replay",
        policy_ref=policy.ref,
        actions=ReplayActions(books, thresholds) if acts else None,
        caching=_logged_caching(settings, provider) if policy.cache else None,
        request_limits=budgets.single,
        trials=Trials(Logged()),
    )


def _logged_routing(live: Routing, provider: Provider, policy_ref: str) -> LoggedRouting:
    serving = LoggedServing(provider, policy_ref)
    return LoggedRouting(
        live.routes, serving, live.trained, logged=provider, policy_ref=policy_ref, prefixes=LoggedPrefixes()
    )


def _logged_caching(settings: Settings, provider: Provider) -> LoggedCaching:
    policy, store = settings.policy, MemoryCache()
    if all(route.semantic.mode == "off" for route in policy.cache):
        return ReplayCaching(policy.cache, store, provider)
    caching = SimilarCaching(policy.cache, store, provider)
    caching.recall = LoggedRecall(provider, store, policy.ref)
    return caching


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
        made: list[ReplayBooks] = []
        orphans = 0

        def usage(logged: Call, target: Target) -> Usage:
            nonlocal orphans
            orphans += bool(logged.answered_by)
            return estimator.usage(logged, target)

        def make(loop: VirtualLoop, provider: Provider, sink: Log) -> Services:
            services = replay_services(settings, loop, provider, sink, prices=prices)
            if job.shared and isinstance(services.books, ReplayBooks):
                services.books.share(thresholds_of(settings.policy, job.shared))
                made.append(services.books)
            return services

        done = replay(
            mine(log, job, after=after),
            make,
            tally,
            estimate=usage,
            verdicts=estimator.verdicts,
            progress=progress,
            longest_ms=job.longest_ms,
            keep=keep,
        )
        bill = tally.finish()
    if keep is not None:
        keep.forget()
    levels = made[0].levels() if made else ()
    return Found(
        bill=bill,
        changed=tally.changed(),
        plain=done.plain,
        why=done.why,
        levels=levels,
        orphans=orphans if job.parts > 1 else 0,
    )
