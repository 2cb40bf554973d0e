"""The composition root: the only module that names adapters. Everything is built from ``Settings``.

Nothing is global: ``build`` may be called any number of times in one process, so that a gateway and a replay can
run side by side.
"""

import asyncio
import contextlib
import gc
import logging
import os
import platform
import secrets
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from farthing import config
from farthing.adapters import focus_files
from farthing.adapters import price_files as price_store
from farthing.adapters.http import HttpTransport
from farthing.adapters.http_library import LibraryTransport
from farthing.adapters.price_feeds import BookPrices, Loaded, load_book, load_default_book, price_files
from farthing.adapters.provider_reports import ProviderReports
from farthing.adapters.providers.anthropic import AnthropicCodec
from farthing.adapters.providers.azure import AzureCodec
from farthing.adapters.providers.openai import OpenAICodec
from farthing.adapters.sqlite import SqliteBooks, SqliteKeys, SqliteLedger
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.system import RandomIds, SystemClock
from farthing.adapters.tokenizers import BpeTokenizer
from farthing.config import ProviderSettings, Settings
from farthing.core.budget import Budgets
from farthing.core.errors import ConfigError, StoreFailed
from farthing.core.routing import Routes
from farthing.core.routing import Upstream as RoutedUpstream
from farthing.core.types import Dialect
from farthing.engine.background import Background
from farthing.engine.record import Recorder
from farthing.engine.services import Services, Upstream
from farthing.ports.clock import Clock
from farthing.ports.provider import Codec, Timeouts, Transport
from farthing.server.admin import Admin
from farthing.server.app import App, Gateway
from farthing.server.auth import Doorman
from farthing.server.metrics import Metrics
from farthing.server.models import Catalogue, Models
from farthing.server.protocol import GatewayProtocol

_LOG = logging.getLogger("farthing.bootstrap")
_RETENTION_S = 3_600
LEDGER_FILE = "farthing.db"
SALT_FILE = "salt"


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


def open_ledger(settings: Settings) -> SqliteLedger:
    """The ledger for reading, while gateways may be writing."""
    return SqliteLedger(ledger_path(settings))


def open_balances(settings: Settings) -> SqliteLedger:
    """The counters of budgets as the file has them."""
    return open_ledger(settings)


def open_importer(settings: Settings) -> SqliteImporter:
    """For booking traces of elsewhere, all of a file or nothing."""
    _made_home(settings)
    return SqliteImporter(ledger_path(settings))


def open_keys(settings: Settings) -> SqliteKeys:
    """The virtual keys."""
    _made_home(settings)
    return SqliteKeys(ledger_path(settings))


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


def secret_of(provider: ProviderSettings, env: Mapping[str, str]) -> str:
    """The provider's key from the environment or its file; empty when neither is set. Raises ConfigError."""
    if provider.api_key_file:
        path = Path(provider.api_key_file)
        try:
            return path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                [f"providers '{provider.name}': api_key_file cannot be read: {error.strerror}"]
            ) from None
    return env.get(provider.api_key_env, "").strip() if provider.api_key_env else ""


def salt_of(settings: Settings) -> bytes:
    """The installation's salt for the traffic log's digests; made once, readable by its owner only."""
    path = _made_home(settings) / SALT_FILE
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
    return path.read_bytes()


def _dialect(provider: ProviderSettings) -> Dialect:
    return "anthropic" if provider.kind == "anthropic" else "openai"


def _codec(provider: ProviderSettings, secret: str) -> Codec:
    if provider.kind == "anthropic":
        return AnthropicCodec(name=provider.name, base_url=provider.base_url, secret=secret, headers=provider.headers)
    if provider.kind == "azure":
        return AzureCodec(
            name=provider.name,
            base_url=provider.base_url,
            secret=secret,
            headers=provider.headers,
            api_version=provider.api_version or "2024-10-21",
        )
    return OpenAICodec(
        name=provider.name,
        base_url=provider.base_url,
        secret=secret,
        headers=provider.headers,
        price_as=provider.price_as,
    )


def _catalogue(provider: ProviderSettings, secret: str) -> Catalogue:
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
        dialect=_dialect(provider),
        url=url,
        headers=tuple(headers),
        passes_credentials=not secret,
    )


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
    books: SqliteBooks
    transports: tuple[Transport, ...]
    stopping: bool = False
    retention: "asyncio.Task[None] | None" = None

    async def start(self) -> None:
        """Opens the ledger and starts the background work; the loop must be running."""
        await self.books.start()
        self.services.background.start()
        self.retention = asyncio.get_running_loop().create_task(self._retain())

    async def stop(self) -> None:
        """Finishes or settles what is in flight, then closes everything."""
        self.stopping = True
        if self.retention is not None:
            self.retention.cancel()
            await asyncio.gather(self.retention, return_exceptions=True)
        await self.services.background.close(self.settings.server.shutdown_timeout_ms)
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


def build(settings: Settings, *, env: Mapping[str, str] | None = None, clock: Clock | None = None) -> Installation:
    """A gateway from its settings. Raises :class:`ConfigError` with every problem."""
    env = os.environ if env is None else env
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
            codec=_codec(provider, secret), transport=transport, include_usage=provider.include_usage
        )
        catalogues.append(_catalogue(provider, secret))
    routes = Routes((_routed(provider) for provider in settings.providers), policy.fallbacks)
    path = ledger_path(settings)
    books = SqliteBooks(path, worker=_worker_name(), durability=settings.server.durability)
    background = Background(books, clock)
    metrics = Metrics(lambda: _gauges(background))
    salt = salt_of(settings)
    services = Services(
        policy=policy,
        routes=routes,
        upstreams=upstreams,
        prices=price_book(settings),
        budgets=Budgets(policy.budgets),
        books=books,
        clock=clock,
        tokens=BpeTokenizer(),
        telemetry=metrics,
        background=background,
        salt=salt,
        policy_ref=policy.ref,
        request_limits=any(budget.per == "request" for budget in policy.budgets),
        timeouts=Timeouts(
            connect_ms=policy.limits.connect_timeout_ms,
            first_byte_ms=policy.limits.first_byte_timeout_ms,
            idle_ms=policy.limits.idle_timeout_ms,
        ),
    )
    recorder = Recorder(text=policy.log.text, redact=policy.log.redact, salt=salt, policy_ref=policy.ref)
    doorman = Doorman(SqliteKeys(path), clock)
    admin = Admin(
        doorman=doorman,
        metrics=metrics,
        models=Models(catalogues, transports, routes, clock),
        ready=lambda: _not_ready(installation),
    )
    gateway = Gateway(services=services, recorder=recorder, doorman=doorman, ids=RandomIds(), admin=admin.app())
    owned = tuple({id(one): one for one in (shared, *transports.values())}.values())
    installation = Installation(settings, App(gateway), services, books, owned)
    return installation


def _routed(provider: ProviderSettings) -> RoutedUpstream:
    return RoutedUpstream(
        name=provider.name,
        dialect=_dialect(provider),
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


class _Asgi:
    """The installation behind ASGI's lifespan."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
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
        self._installation = build(self._settings)
        await self._installation.start()
        _calm_collector()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._installation.stop()
        await send({"type": "lifespan.shutdown.complete"})


def factory() -> _Asgi:
    """The application of one worker process; settings come from the environment that ``serve`` prepared."""
    return _Asgi(load_settings())


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


def serve(settings: Settings) -> None:
    """Runs the gateway until it is told to stop; one process, or ``server.workers`` of them."""
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
    uvicorn.run("farthing.bootstrap:factory", factory=True, workers=settings.server.workers, **options)
