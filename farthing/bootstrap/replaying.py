"""The services of a replay: the live pipeline with other ports."""

from typing import cast

from farthing.adapters.cache_memory import MemoryCache
from farthing.adapters.codecs import codec_of
from farthing.bootstrap.caching import tokenizer
from farthing.bootstrap.pricing import price_book
from farthing.bootstrap.routing import routes_of
from farthing.config import Settings, dialect_of
from farthing.core.budget import Budgets
from farthing.engine.actions import Actions
from farthing.engine.levers import Levers
from farthing.engine.services import Services, Upstream
from farthing.engine.watch import Watch
from farthing.lab.replay import Log, Unlogged
from farthing.lab.replay_books import ReplayBooks, ReplayWatch
from farthing.lab.replay_cache import ReplayCaching
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_time import VirtualLoop
from farthing.ports.prices import Prices
from farthing.ports.tokens import Tokenizer


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
    budgets = Budgets(policy.budgets)
    upstreams = {
        one.name: Upstream(
            codec=provider.codec(codec_of(one, "")),
            transport=provider,
            include_usage=one.include_usage,
            speaks=dialect_of(one),
        )
        for one in settings.providers
    }
    return Services(
        policy=policy,
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
    )
