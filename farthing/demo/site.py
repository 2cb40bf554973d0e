"""The demo's two servers: the gateway and the simulated provider, each on a thread of this process."""

import asyncio
import concurrent.futures
import hashlib
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

import uvicorn

from farthing import bootstrap
from farthing.bootstrap import Installation
from farthing.config import Settings
from farthing.core.errors import ConfigError
from farthing.core.types import KeyRecord, Scope
from farthing.demo.clock import DayClock
from farthing.demo.company import KEYS, ORG
from farthing.demo.plan import Plan
from farthing.demo.settings_file import write_settings
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.sim.tokens import encoding

Answer = TypeVar("Answer")
START_S: Final = 30.0
INVOICE_FILE: Final = "invoice.jsonl"
SIM_SPEED: Final = 0.02
"""The simulator's latencies, fifty times shorter than life, so that answers overlap as they do in life."""


class GatewayThread:
    """A running gateway. ``start`` returns once it accepts connections."""

    def __init__(self, settings: Settings, clock: DayClock, listener: socket.socket) -> None:
        self.settings = settings
        self._clock = clock
        self._listener = listener
        self._ready: concurrent.futures.Future[Installation] = concurrent.futures.Future()
        self._server: uvicorn.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="farthing-gateway", daemon=True)

    def start(self) -> Installation:
        """The installation, once it serves. Raises what its start raised."""
        self._thread.start()
        return self._ready.result(START_S)

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """``question`` called on the gateway's own thread, between two of its steps."""
        assert self._loop is not None, "ask only a gateway that was started"

        async def answer() -> Answer:
            return question()

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(START_S)

    def stop(self) -> None:
        """Ends what is in flight and joins the thread."""
        self._stopping = True
        if self._server is not None:
            self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            installation = bootstrap.build(self.settings, env={}, clock=self._clock)
            config = bootstrap.uvicorn_config(installation.app, self.settings)
            self._server = uvicorn.Server(config)
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                runner.run(self._serve(installation, self._server))
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self, installation: Installation, server: uvicorn.Server) -> None:
        self._loop = asyncio.get_running_loop()
        server.should_exit = self._stopping  # told to stop while it was being built
        async with installation.running():
            serving = asyncio.create_task(server.serve(sockets=[self._listener]))
            while not server.started and not serving.done():
                await asyncio.sleep(0.005)
            if not serving.done():
                self._ready.set_result(installation)
            await serving


class Site:
    """Everything that runs: a context manager that stops it all, however it is left."""

    def __init__(self, home: Path, plan: Plan, *, port: int, seconds: float, seed: int) -> None:
        """``seconds`` of real time are one day. Raises ``ConfigError`` when the port is taken."""
        try:
            self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        except OSError as error:
            problem = f"127.0.0.1:{port} cannot be listened on: {error.strerror}; choose another port, or 0"
            raise ConfigError([problem], source="--port") from error
        self.home = home
        self.clock = DayClock(seconds)
        self._sim = SimServer(
            SimSettings(now_ms=self.clock.now_ms, seed=seed, speed=SIM_SPEED, invoice_file=str(home / INVOICE_FILE))
        )
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._plan = plan
        self._gateway: GatewayThread | None = None
        self.installation: Installation
        self.settings: Settings
        self.secrets: Mapping[str, str] = {}
        """Each key's secret by its name; kept in memory only."""

    @property
    def provider_url(self) -> str:
        """The simulator's address, without ``/v1``."""
        return self._sim.url

    @property
    def gateway(self) -> GatewayThread:
        """The running gateway."""
        assert self._gateway is not None, "the site runs inside its context only"
        return self._gateway

    def __enter__(self) -> "Site":
        try:
            for name in ("o200k", "cl100k"):
                encoding(name)
            self._sim.start()
            self.settings = write_settings(
                self.home,
                self._plan,
                port=self._listener.getsockname()[1],
                provider_url=self._sim.url,
                zone=self.clock.zone,
                speed=round(self.clock.speed),
            )
            self.secrets = make_keys(self.settings, self.clock.starts_at_ms)
            self._gateway = GatewayThread(self.settings, self.clock, self._listener)
            self.installation = self._gateway.start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._gateway is not None:
            self._gateway.stop()
        self._sim.stop()
        self._listener.close()


def make_keys(settings: Settings, now_ms: int) -> dict[str, str]:
    """Creates the company's virtual keys; their secrets by name."""
    found: dict[str, str] = {}
    with closing(bootstrap.open_keys(settings)) as keys:
        for key in KEYS:
            key_id, secret = f"key_{secrets.token_hex(8)}", f"fk-{secrets.token_urlsafe(32)}"
            keys.add(
                KeyRecord(
                    id=key_id,
                    name=key.name,
                    hash=hashlib.sha256(secret.encode()).hexdigest(),
                    hint=secret[-4:],
                    scope=Scope(org=ORG, team=key.team, key=key_id),
                    refine=key.refine,
                    created_at_ms=now_ms,
                    models=key.models,
                )
            )
            found[key.name] = secret
    return found


async def wait_until(done: Callable[[], Awaitable[bool]], *, seconds: float) -> bool:
    """Asks until ``done`` says yes; False when ``seconds`` have passed."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not await done():
        if loop.time() >= end:
            return False
        await asyncio.sleep(0.05)
    return True
