"""Running the simulator: in this process on a thread, or in the foreground for the command line."""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from farthing.sim.account import Account
from farthing.sim.app import create_app
from farthing.sim.http import TRANSPORT
from farthing.sim.settings import SimSettings

STARTUP_SECONDS = 60.0


class SimProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol that hands the transport to the application, so that it can break connections."""

    def on_message_begin(self) -> None:
        """Called by the parser when a request starts."""
        super().on_message_begin()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]  # a TypedDict without room for our key
        scope[TRANSPORT] = self.transport


def _config(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=SimProtocol,
        ws="none",
        loop="auto",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
        backlog=4096,
    )


class SimServer:
    """A simulator on a loopback port, served by a thread of this process.

    Use it as a context manager; ``url`` is the address without ``/v1``, ``account`` the state (read it freely, change
    it only through HTTP while requests run).
    """

    def __init__(self, settings: SimSettings | None = None, *, port: int = 0) -> None:
        self._app = create_app(settings)
        self._port = port
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None

    @property
    def account(self) -> Account:
        """The provider's state, its invoice included."""
        return self._app.account

    @property
    def port(self) -> int:
        """The port it listens on; 0 before the start."""
        return self._port

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> "SimServer":
        """Listen; returns once connections are accepted. Raises ``OSError`` when the port is taken."""
        listener = socket.create_server(("127.0.0.1", self._port), backlog=4096)
        self._socket = listener
        self._port = listener.getsockname()[1]
        server = uvicorn.Server(_config(self._app))
        ready = threading.Event()
        self._server = server
        self._thread = threading.Thread(
            target=_serve, args=(server, listener, ready), name="farthing-sim", daemon=True
        )
        self._thread.start()
        if not ready.wait(STARTUP_SECONDS):
            self.stop()
            raise RuntimeError(f"the simulator did not start within {STARTUP_SECONDS} seconds")
        return self

    def stop(self) -> None:
        """Stop listening, end the open requests and join the thread."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
        if self._socket is not None:
            self._socket.close()
        self._server = self._thread = self._socket = None

    def __enter__(self) -> "SimServer":
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


def _serve(server: uvicorn.Server, listener: socket.socket, ready: threading.Event) -> None:
    async def announce() -> None:
        while not server.started and not server.should_exit:
            await asyncio.sleep(0.005)
        ready.set()

    async def both() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(announce())
            tasks.create_task(server.serve(sockets=[listener]))

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(both())


def run(settings: SimSettings, *, host: str, port: int, listening: Callable[[str], None] | None = None) -> None:
    """Serve in the foreground until interrupted; ``listening`` is told the address once the port is bound.

    Port 0 takes a free one. Raises ``OSError`` when the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=4096) as listener:
        if listening is not None:
            shown = f"[{host}]" if ":" in host else host
            listening(f"http://{shown}:{listener.getsockname()[1]}")
        # uvicorn ends its work first and raises the interrupt again afterwards.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(_config(create_app(settings))).run(sockets=[listener])
