"""A gateway for tests and benchmarks: on a thread of this process, or as a process of its own that may be killed."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import uvicorn

from farthing import bootstrap, config
from farthing.config import Settings
from farthing.core.types import Exchange, LedgerEntry, Reservation
from farthing.testing.fakes import VirtualClock
from farthing.testing.servers import free_port as free_port

STARTUP_SECONDS = 60.0
PATIENCE_S = 60.0
"""How long what must come may take: a busy machine is no failure, and what never comes may cost a minute."""

SIM_KEY = "sk-sim"
_Answer = TypeVar("_Answer")


def simulated_providers(url: str) -> str:
    """The TOML that points both dialects at a simulator."""
    return (
        f'[[providers]]\nname = "openai"\nbase_url = "{url}/v1"\napi_key_env = "SIM_KEY"\n'
        f'[[providers]]\nname = "anthropic"\nbase_url = "{url}/v1"\napi_key_env = "SIM_KEY"\n'
    )


def foreign_providers(url: str) -> str:
    """The TOML of upstreams at a simulator whose dialects no caller speaks: Gemini and Bedrock."""
    return (
        f'[[providers]]\nname = "gemini"\nbase_url = "{url}/v1beta"\napi_key_env = "SIM_KEY"\n'
        f'[[providers]]\nname = "bedrock"\nbase_url = "{url}"\napi_key_env = "SIM_KEY"\n'
    )


class Books:
    """What a gateway wrote, read from outside."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def entries(self, request_id: str = "") -> list[LedgerEntry]:
        """Ledger entries in booking order."""
        return list(bootstrap.open_ledger(self.settings).entries(request_id=request_id))

    def exchanges(self) -> list[Exchange]:
        """The traffic log so far; rows of refused and failed requests come some milliseconds after their answers."""
        return list(bootstrap.open_ledger(self.settings).exchanges())

    def exchange(self, request_id: str, *, within_s: float = PATIENCE_S) -> Exchange:
        """The row of one request, waited for. Raises ``AssertionError`` when it never comes."""
        due = time.monotonic() + within_s
        while time.monotonic() < due:
            for exchange in self.exchanges():
                if exchange.request_id == request_id:
                    return exchange
            time.sleep(0.02)
        raise AssertionError(f"no exchange {request_id} within {within_s} s")

    def settled(self, count: int, *, within_s: float = PATIENCE_S) -> list[LedgerEntry]:
        """The entries once there are ``count``. Raises ``AssertionError`` when there never are so many."""
        due = time.monotonic() + within_s
        while time.monotonic() < due:
            found = self.entries()
            if len(found) >= count:
                return found
            time.sleep(0.02)
        raise AssertionError(f"{len(self.entries())} entries within {within_s} s, expected {count}")


class GatewayServer:
    """A gateway on a loopback port, served by a thread with its own event loop. Use it as a context manager."""

    def __init__(
        self, home: Path, toml: str, *, env: Mapping[str, str] | None = None, clock: VirtualClock | None = None
    ) -> None:
        """``env`` is all that the gateway sees of the environment. Raises ``ConfigError`` for a wrong ``toml``."""
        self.env = {"SIM_KEY": SIM_KEY, **(env or {})}
        self.settings = config.parse(
            toml, env={"HOME": str(home), "FARTHING_HOME": str(home)}, source="farthing.toml"
        )
        self.books = Books(self.settings)
        self.url = ""
        self.port = 0
        self._clock = clock
        self._installation: bootstrap.Installation | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> "GatewayServer":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> "GatewayServer":
        """Serves; returns once connections are accepted."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        installation = bootstrap.build(self.settings, env=self.env, clock=self._clock)
        self._installation = installation
        self._server = uvicorn.Server(bootstrap.uvicorn_config(installation.app, self.settings))
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener, ready), name="gateway", daemon=True)
        self._thread.start()
        if not ready.wait(STARTUP_SECONDS) or self._failure is not None:
            raise RuntimeError(f"the gateway did not start: {self._failure}")
        return self

    def stop(self) -> None:
        """Stops as on SIGTERM: requests in flight finish or are settled."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(60)
        self._server = self._thread = None

    @property
    def installation(self) -> bootstrap.Installation:
        """What is running; change it only before the first request."""
        assert self._installation is not None
        return self._installation

    def run(self, work: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Runs a coroutine on the gateway's loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def open_reservations(self) -> tuple[Reservation, ...]:
        """What is held at the moment."""

        async def ask() -> tuple[Reservation, ...]:
            return self.installation.books.open_reservations()

        return self.run(ask())

    def quiet(self, *, within_s: float = PATIENCE_S) -> bool:
        """Waits until nothing is held any more; False when something stays held."""
        due = time.monotonic() + within_s
        while self.open_reservations():
            if time.monotonic() > due:
                return False
            time.sleep(0.02)
        return True

    def _run(self, listener: socket.socket, ready: threading.Event) -> None:
        server, installation = self._server, self._installation
        assert server is not None
        assert installation is not None

        async def announce() -> None:
            while not server.started and not server.should_exit:
                await asyncio.sleep(0.005)
            ready.set()

        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            async with installation.running():
                announcing = asyncio.ensure_future(announce())
                await server.serve(sockets=[listener])
                await announcing

        try:
            with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
                runner.run(serve())
        except BaseException as error:
            self._failure = error
            raise
        finally:
            listener.close()
            ready.set()


class GatewayProcess:
    """``farthing serve`` as a process of its own, to be terminated or killed."""

    def __init__(self, home: Path, toml: str, *, env: Mapping[str, str] | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        (home / "farthing.toml").write_text(toml, encoding="utf-8")
        self._env = {**os.environ, "SIM_KEY": SIM_KEY, "FARTHING_CONFIG": str(home / "farthing.toml"), **(env or {})}
        self.settings = config.parse(
            toml, env={"HOME": str(home), "FARTHING_HOME": str(home)}, source="farthing.toml"
        )
        self.books = Books(self.settings)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "GatewayProcess":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Starts the process and returns when it is ready."""
        command = [sys.executable, "-m", "farthing", "--home", str(self.home), "serve", "--port", str(self.port)]
        self._process = subprocess.Popen(command, env=self._env, start_new_session=True)
        due = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < due:
            if self._process.poll() is not None:
                raise RuntimeError(f"the gateway ended at once with exit code {self._process.returncode}")
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=1) as answer:
                    answer.read()
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise RuntimeError("the gateway did not become ready")

    def kill(self) -> None:
        """SIGKILL to it and all of its workers: no goodbye."""
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        return self._end(signal.SIGTERM)

    def tell(self, number: signal.Signals) -> None:
        """Sends a signal and does not wait."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, within_s: float = 60.0) -> int:
        """The exit code, once it has ended."""
        assert self._process is not None
        return self._process.wait(within_s)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
        return process.wait(60)
