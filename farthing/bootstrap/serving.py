"""Running the gateway: the ASGI application behind its lifespan, and the server around it."""

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from farthing.adapters.system import SteadyClock
from farthing.bootstrap.building import Installation, build
from farthing.bootstrap.home import load_settings
from farthing.bootstrap.opening import open_keys
from farthing.config import Settings
from farthing.core.errors import ConfigError, StoreFailed
from farthing.ports.clock import Clock
from farthing.server.app import App
from farthing.server.protocol import GatewayProtocol

_LOG = logging.getLogger("farthing.bootstrap")

_RESTART_S = 2
_ANSWERS_WITHIN_S = 30
"""A worker that does not answer its supervisor for so long is killed. A loaded machine takes more than uvicorn's five
seconds to start one, and would kill it each time."""


def _calm_collector() -> None:
    """Requests leave no reference cycles behind, so the cyclic collector may run rarely over what is young only.

    This is the whole process's, so only a process that is a gateway and nothing else does it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


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


def check_address(settings: Settings) -> None:
    """Raises :class:`ConfigError` when nothing can listen there; uvicorn would say so less plainly, or in a loop."""
    host, port = settings.server.host, settings.server.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with socket.create_server(found[0][4][:2], family=found[0][0]):
            return
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    raise ConfigError(
        [
            f"server.host {host} and server.port {port} cannot be listened on: {why}; stop what listens there, or "
            "choose another with --port or --host"
        ]
    )


async def _end_with_parent(parent: int | None) -> None:
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
        parent = multiprocessing.parent_process() if self._supervised else None
        orphaned = asyncio.create_task(_end_with_parent(parent.pid)) if parent is not None else None
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if orphaned is not None:
            orphaned.cancel()
        await self._installation.stop()
        await send({"type": "lifespan.shutdown.complete"})


def factory(clock: Clock | None = None) -> _Asgi:
    """The application of one worker process; settings come from the environment that ``serve`` prepared."""
    try:
        settings = load_settings()
    except ConfigError as error:  # after SIGHUP, for one; the workers that are there go on
        _LOG.error("this worker cannot start: %s", error)
        raise SystemExit(os.EX_CONFIG) from None
    return _Asgi(settings, clock, supervised=True)


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
        "timeout_worker_healthcheck": _ANSWERS_WITHIN_S,
        "timeout_graceful_shutdown": max(1, settings.server.shutdown_timeout_ms // 1000),
    }


def uvicorn_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """The gateway's server in this process."""
    return uvicorn.Config(app, **uvicorn_options(settings))


def _mind_hangups(server: uvicorn.Server, settings: Settings) -> None:
    """SIGHUP does not drop what is in flight: a closed terminal ends a lone worker like SIGTERM, a service goes on.

    Whoever sends it to a service wants the configuration read again, which takes a second worker to serve meanwhile.
    """
    at_terminal = sys.stdin is not None and sys.stdin.isatty()

    def hung_up(number: int, frame: FrameType | None) -> None:
        if at_terminal:
            server.should_exit = True
            return
        try:
            load_settings(settings.source or None, settings.home)
            said = "the configuration is valid"
        except ConfigError as error:
            said = str(error)
        _LOG.warning("SIGHUP: a lone worker reads its configuration only at its start (server.workers = 2); %s", said)

    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, hung_up)


def serve(settings: Settings, application: str = "farthing.bootstrap:factory") -> None:
    """Runs the gateway until it is told to stop; one process, or ``server.workers``, each made by ``application``."""
    keys = open_keys(settings)
    check_exposure(settings, any(record.revoked_at_ms is None for record in keys.all()))
    check_address(settings)
    if settings.server.workers == 1:
        server = uvicorn.Server(uvicorn_config(_Asgi(settings), settings))
        _mind_hangups(server, settings)
        server.run()
        return
    os.environ["FARTHING_HOME"] = settings.home
    os.environ["FARTHING_HOST"] = settings.server.host
    os.environ["FARTHING_PORT"] = str(settings.server.port)
    if settings.source:
        os.environ["FARTHING_CONFIG"] = settings.source
    options = uvicorn_options(settings)
    uvicorn.run(application, factory=True, workers=settings.server.workers, **options)
