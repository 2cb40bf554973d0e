"""A gateway built from its settings: every port gets its adapter here."""

import asyncio
import contextlib
import functools
import logging
import os
from collections import ChainMap
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from farthing import config
from farthing.adapters import analytics, store_opening
from farthing.adapters.alert_sinks import open_alert_log, open_sinks
from farthing.adapters.codecs import codec_of, secret_of
from farthing.adapters.http import HttpTransport
from farthing.adapters.http_library import LibraryTransport
from farthing.adapters.price_feeds import load_default_book, price_files
from farthing.adapters.rollup_running import Rolling
from farthing.adapters.store_opening import GatewayBooks, ReadableLedger, books_gauges
from farthing.adapters.system import RandomIds, SteadyClock, SystemClock
from farthing.adapters.tokenizers_calibrated import CalibratedTokenizer
from farthing.bootstrap.batching import Batching
from farthing.bootstrap.caching import caching_of, similar_of, tokenizer
from farthing.bootstrap.home import (
    DASHBOARD_SECRET_FILE,
    made_home,
    own_secret,
    salt_of,
    worker_name,
)
from farthing.bootstrap.opening import note_state
from farthing.bootstrap.page_routes import rollout_states, route_facts
from farthing.bootstrap.pricing import list_price, price_book
from farthing.bootstrap.routing import routed, routing_of, steward_of
from farthing.bootstrap.studying import replays, studies
from farthing.bootstrap.trials import Following, following_of
from farthing.config import ProviderSettings, Settings, dialect_of
from farthing.core.alerts import Alert
from farthing.core.budget import Budgets
from farthing.core.errors import StoreFailed
from farthing.core.policy import Policy
from farthing.core.routing import Routes
from farthing.core.types import Dialect
from farthing.engine.alerting import Alerting, is_wanted, make_alerting
from farthing.engine.background import Background
from farthing.engine.caching import Caching
from farthing.engine.levers import Levers
from farthing.engine.record import Recorder
from farthing.engine.route_steward import Steward
from farthing.engine.services import Services, Upstream
from farthing.engine.summaries import Summaries
from farthing.insight.incident_alerts import new_alerts
from farthing.insight.incident_list import Judged
from farthing.insight.ownership import questions, rules_of
from farthing.ports.books import Ledger
from farthing.ports.clock import Clock
from farthing.ports.provider import Timeouts, Transport
from farthing.server.admin import Admin
from farthing.server.app import App, Gateway
from farthing.server.auth import Doorman
from farthing.server.batch_answers import BatchRoom
from farthing.server.metrics import Metrics
from farthing.server.models import Catalogue, Models
from farthing.server.outcomes import OutcomesApi
from farthing.server.pages.ask import Sources
from farthing.server.pages.reading import RememberedLedger
from farthing.server.pages.site import Dashboard

_LOG = logging.getLogger("farthing.bootstrap")

_RETENTION_S = 3_600


def _catalogue(provider: ProviderSettings, secret: str, dialect: Dialect) -> Catalogue:
    headers = [(name.lower().encode(), value.encode()) for name, value in provider.headers]
    if secret and provider.kind == "openai":
        headers.append((b"authorization", b"Bearer " + secret.encode()))
    elif secret:
        headers.append((b"x-api-key" if provider.kind == "anthropic" else b"api-key", secret.encode()))
    base = provider.base_url.rstrip("/")
    url = f"{base}/models"
    if provider.kind == "azure":
        url = f"{base.removesuffix('/openai')}/openai/models?api-version={provider.api_version or '2024-10-21'}"
    return Catalogue(
        name=provider.name,
        dialect=dialect,
        url=url,
        headers=tuple(headers),
        passes_credentials=not secret,
    )


class _Gauged(Protocol):
    """A part that has figures for metrics."""

    def gauges(self) -> dict[str, float]: ...


@dataclass(slots=True)
class Installation:
    """One running gateway: its application and what must be started and stopped with it."""

    settings: Settings
    app: App
    services: Services
    books: GatewayBooks
    transports: tuple[Transport, ...]
    stopping: bool = False
    retention: "asyncio.Task[None] | None" = None
    shipping: tuple[analytics.Shipping, ...] = ()
    alerting: Alerting | None = None
    counter: CalibratedTokenizer | None = None
    batching: Batching | None = None
    steward: Steward | None = None
    following: Following | None = None
    rolling: Rolling | None = None

    async def start(self) -> None:
        """Opens the ledger and starts the background work; the loop must be running."""
        await self.books.start()
        self.services.background.start()
        if self.services.caching is not None:
            await self.services.caching.start()
        self.retention = asyncio.get_running_loop().create_task(self._retain())
        for shipping in self.shipping:
            shipping.start()
        if self.alerting is not None:
            await self.alerting.start()
        if self.steward is not None:
            await self.steward.start()
        if self.following is not None:
            await self.following.start()
        if self.batching is not None:
            self.batching.start()
        if self.rolling is not None:
            self.rolling.start()
        await asyncio.to_thread(self._note)

    def _note(self) -> None:
        """What this gateway runs under, for the audit log; a store that is away now is no reason not to serve."""
        with contextlib.suppress(StoreFailed):
            now_ms = self.services.clock.now_ms()
            note_state(self.settings, at_ms=now_ms, by="gateway", prices_ref=self.services.prices.ref)

    async def stop(self) -> None:
        """Finishes or settles what is in flight, then closes everything."""
        self.stopping = True
        if self.retention is not None:
            self.retention.cancel()
            await asyncio.gather(self.retention, return_exceptions=True)
        if self.batching is not None:
            await self.batching.stop()
        if self.rolling is not None:
            await asyncio.to_thread(self.rolling.stop)
        for shipping in self.shipping:
            await shipping.stop()
        await self.services.background.close(self.settings.server.shutdown_timeout_ms)
        if self.steward is not None:
            await self.steward.close()
        if self.alerting is not None:
            await self.alerting.stop()
        if self.following is not None:
            await self.following.stop()
        if self.services.caching is not None:
            await self.services.caching.close()
        if self.counter is not None:
            await asyncio.to_thread(self.counter.close)
        for transport in self.transports:
            await transport.close()
        await self.books.close()

    async def _retain(self) -> None:
        """Once an hour, exchanges older than the policy keeps them are deleted; the ledger never is."""
        keep_ms = self.services.policy.log.retention_days * 86_400_000
        while True:
            try:
                await self.books.prune(self.services.clock.now_ms() - keep_ms)
            except StoreFailed as error:
                _LOG.warning("old exchanges could not be deleted: %s", error)
            await asyncio.sleep(_RETENTION_S)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Installation"]:
        """Started inside, stopped outside, whatever happens."""
        await self.start()
        try:
            yield self
        finally:
            await self.stop()


def build(
    settings: Settings,
    *,
    env: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    steady: Clock | None = None,
) -> Installation:
    """A gateway from its settings. Raises :class:`ConfigError` with every problem."""
    env = os.environ if env is None else env
    steady = steady or clock or SteadyClock()
    clock = clock or SystemClock()
    made_home(settings)
    policy = settings.policy
    shared = HttpTransport(ca_file=env.get("SSL_CERT_FILE", ""))
    transports, upstreams, catalogues = _providers(settings, env, shared)
    routes = Routes((routed(provider) for provider in settings.providers), policy.fallbacks)
    books = store_opening.open_books(settings, worker=worker_name(), env=env)
    background = Background(books, steady)
    shipping = _shipping(settings, env, clock)
    budgets = Budgets(policy.budgets)
    alerting = _alerting(settings, budgets, books, env, clock)
    rolling = store_opening.open_rolling(settings, clock.now_ms, _asked_often(settings))
    parts: list[_Gauged] = [*shipping, *(part for part in (alerting, rolling) if part is not None)]
    caching = caching_of(settings, env, clock)
    metrics = _metrics(background, books, parts, caching)
    salt = salt_of(settings)
    counter = tokenizer(settings)
    prices = price_book(settings)
    services = Services(
        policy=policy,
        routes=routes,
        upstreams=upstreams,
        prices=prices,
        budgets=budgets,
        books=books,
        clock=clock,
        steady=steady,
        tokens=counter,
        usage_listener=counter,
        telemetry=metrics,
        background=background,
        salt=salt,
        policy_ref=policy.ref,
        watch=alerting.watched if alerting is not None else None,
        actions=alerting.actions if alerting is not None else None,
        caching=caching,
        routing=routing_of(settings, transports=transports, env=env),
        levers=Levers(policy.levers, prices, summaries=Summaries()) if policy.levers else None,
        request_limits=budgets.single,
        timeouts=_timeouts(policy), logs=policy.log.enabled,
    )  # fmt: skip
    recorder = _recorder(policy, salt)
    similar = similar_of(settings, services, recorder, transports, env)
    if similar is not None and caching is not None:
        caching.recall = similar
        parts.append(similar)
    steward = steward_of(
        settings, services, recorder, clock, env, name=worker_name(),
        tell=alerting.tell if alerting is not None else None,
    )  # fmt: skip
    if steward is not None:
        parts.append(steward)
    models = Models(catalogues, transports, routes, clock)
    app, batching = _front(settings, env, services, recorder, metrics, models, lambda: _not_ready(installation))
    owned = tuple({id(one): one for one in (shared, *transports.values())}.values())
    installation = Installation(
        settings, app, services, books, owned, shipping=shipping, alerting=alerting, counter=counter,
        following=following_of(settings, services, env), steward=steward, batching=batching, rolling=rolling,
    )  # fmt: skip
    return installation


def _metrics(
    background: Background, books: GatewayBooks, parts: Sequence[_Gauged], caching: Caching | None
) -> Metrics:
    return Metrics(
        lambda: dict(ChainMap(_gauges(background), books_gauges(books), *(part.gauges() for part in parts))),
        caching.counters if caching is not None else None,
    )


def _front(
    settings: Settings,
    env: Mapping[str, str],
    services: Services,
    recorder: Recorder,
    metrics: Metrics,
    models: Models,
    ready: Callable[[], list[str]],
) -> tuple[App, Batching]:
    """What callers meet: the application, and the room for batches that opens when the gateway starts."""
    doorman = Doorman(store_opening.open_keys(settings, env), services.clock)
    room = BatchRoom(doorman, bytes_max=settings.batches.file_bytes_max)
    admin = _admin(settings, env, services.clock, doorman, metrics, models, room, ready=ready)
    gateway = Gateway(
        services=services, recorder=recorder, doorman=doorman, ids=RandomIds(), admin=admin.app(), batches=room
    )
    return App(gateway), Batching(settings, env, services, room)


def _providers(
    settings: Settings, env: Mapping[str, str], shared: HttpTransport
) -> tuple[dict[str, Transport], dict[str, Upstream], list[Catalogue]]:
    """Transports and upstreams by the provider's name, and the lists of models that can be asked for."""
    transports: dict[str, Transport] = {}
    upstreams: dict[str, Upstream] = {}
    catalogues: list[Catalogue] = []
    for provider in settings.providers:
        secret = secret_of(provider, env)
        transport: Transport = shared
        if provider.http == "2" or provider.proxy:
            transport = LibraryTransport(
                http2=provider.http == "2", proxy=provider.proxy, ca_file=env.get("SSL_CERT_FILE", "")
            )
        transports[provider.name] = transport
        upstreams[provider.name] = Upstream(
            codec=codec_of(provider, secret, env),
            transport=transport,
            include_usage=provider.include_usage,
            speaks=dialect_of(provider),
        )
        dialect = dialect_of(provider)
        if dialect == "openai" or dialect == "anthropic":
            catalogues.append(_catalogue(provider, secret, dialect))
    return transports, upstreams, catalogues


def _recorder(policy: Policy, salt: bytes) -> Recorder:
    log = policy.log
    text = log.text if log.enabled else "none"
    return Recorder(text=text, redact=log.redact, salt=salt, policy_ref=policy.ref)


def _timeouts(policy: Policy) -> Timeouts:
    limits = policy.limits
    return Timeouts(
        connect_ms=limits.connect_timeout_ms,
        first_byte_ms=limits.first_byte_timeout_ms,
        idle_ms=limits.idle_timeout_ms,
    )


def _admin(
    settings: Settings,
    env: Mapping[str, str],
    clock: Clock,
    doorman: Doorman,
    metrics: Metrics,
    models: Models,
    batches: BatchRoom,
    *,
    ready: Callable[[], list[str]],
) -> Admin:
    """Everything that is not a provider's path."""
    return Admin(
        doorman=doorman,
        metrics=metrics,
        models=models,
        ready=ready,
        outcomes=OutcomesApi(doorman, lambda: store_opening.open_practice(settings, env), clock),
        dashboard=Dashboard(_page_sources(settings, env, clock, ready)),
        batches=batches,
    )


def _page_sources(
    settings: Settings, env: Mapping[str, str], clock: Clock, ready: Callable[[], list[str]]
) -> Sources:
    """What the dashboard reads: everything opened when a page asks for it."""

    def ledger() -> ReadableLedger:
        return store_opening.open_rolled_up(settings, env)

    return Sources(
        settings=lambda: settings,
        reports=_history(settings, env, ledger),
        ledger=ledger,
        newest=store_opening.open_newest(settings, env),
        counters=ledger,
        alerts=lambda: open_alert_log(settings, env),
        practice=lambda: store_opening.open_practice(settings, env),
        keys=lambda: store_opening.open_keys(settings, env),
        list_price=list_price(settings),
        book=functools.cache(lambda: load_default_book(price_files(settings.home))),
        check=lambda text, source: config.parse(text, env=env, source=source),
        ready=ready,
        secret=lambda: own_secret(settings, DASHBOARD_SECRET_FILE),
        now_ms=clock.now_ms,
        studies=studies(settings, env, clock.now_ms),
        routes=route_facts(settings, clock.now_ms),
        rollouts=rollout_states(settings, env),
        replays=replays(settings),
    )


def _history(
    settings: Settings, env: Mapping[str, str], ledger: Callable[[], ReadableLedger]
) -> Callable[[], Ledger]:
    """What closed days are read from."""

    def reports() -> Ledger:
        return analytics.open_reports(ledger(), settings.analytics, Path(settings.home), env, "")

    return ledger if settings.analytics.reports in ("ledger", "copy") else reports


def _alerting(
    settings: Settings, budgets: Budgets, books: GatewayBooks, env: Mapping[str, str], clock: Clock
) -> Alerting | None:
    if not is_wanted(settings.alerts, settings.policy):
        return None
    return make_alerting(
        settings.alerts,
        settings.policy,
        budgets=budgets,
        books=books,
        ledger=store_opening.open_ledger(settings, env),
        log=open_alert_log(settings, env),
        sinks=open_sinks(settings.alerts.sinks, env=env, clock=clock),
        clock=clock,
        workers=settings.server.workers,
        reads_at_once=settings.store.kind == "sqlite",
        incidents=_incidents(settings, env, clock),
    )


def _incidents(
    settings: Settings, env: Mapping[str, str], clock: Clock
) -> Callable[[int, Sequence[Alert]], Sequence[Alert]]:
    """What looks for incidents nobody was told of; answers about closed days are kept for an hour."""

    def ledger() -> ReadableLedger:
        return store_opening.open_rolled_up(settings, env)

    def judged() -> Judged:
        with contextlib.closing(store_opening.open_practice(settings, env)) as practice:
            return Judged.of(practice)

    reports = _history(settings, env, ledger)
    totals = RememberedLedger(reports, ledger, clock.now_ms, closed_s=3_600.0)
    return lambda now_ms, told: new_alerts(totals, ledger(), judged, told, now_ms=now_ms)


def _asked_often(settings: Settings) -> tuple[tuple[str, ...], ...]:
    """Dimensions that pages ask about together: allocation, routing, unit economics."""
    return (*questions(rules_of(settings.allocation)), ("model_requested", "model", "reason"), ("user", "feature"))


def _shipping(settings: Settings, env: Mapping[str, str], clock: Clock) -> tuple[analytics.Shipping, ...]:
    home, chosen, found = Path(settings.home), settings.analytics, []
    if chosen.clickhouse_url:
        shipper = analytics.open_shipper(store_opening.open_feed(settings, env), chosen, home, env)
        found.append(analytics.Shipping(shipper, clock.now_ms, name="clickhouse"))
    if chosen.otlp_url:
        shipper = analytics.open_spans(store_opening.open_feed(settings, env), chosen, home, env)
        found.append(analytics.Shipping(shipper, clock.now_ms, name="otlp"))
    copier = store_opening.open_copier(settings, env)
    if copier is not None:
        found.append(analytics.Shipping(copier, clock.now_ms, name="copy"))
    return tuple(found)


def _gauges(background: Background) -> dict[str, float]:
    return {
        "requests_in_flight": background.in_flight,
        "settlements_waiting": background.unbooked,
        "exchanges_dropped": background.dropped,
    }


def _not_ready(installation: Installation) -> list[str]:
    problems = ["the gateway is stopping"] if installation.stopping else []
    waiting = installation.services.background.unbooked
    if waiting:
        problems.append(f"{waiting} settlements wait for the ledger")
    return problems
