"""Scripted upstreams on loopback; every test here runs on asyncio's loop and on uvloop."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from farthing.adapters.http import HttpTransport, LibraryTransport
from farthing.ports.provider import HttpRequest, Timeouts, Transport


def pytest_asyncio_loop_factories(config: object, item: object) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@dataclass
class Exchange:
    """One request as the upstream saw it."""

    connection: int
    head: bytes
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *pieces: bytes) -> None:
        """Writes each piece so that the client reads it by itself."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            for _ in range(3):
                await asyncio.sleep(0)

    async def gone(self) -> bool:
        """Waits until the client has disconnected."""
        try:
            return await asyncio.wait_for(self.reader.read(1), 5) == b""
        except ConnectionError:
            return True


Script = Callable[[Exchange], Awaitable[None]]


@dataclass
class Upstream:
    """A server that runs its script once per request until the client or the script closes the connection."""

    script: Script
    tls: ssl.SSLContext | None = None
    connections: int = 0
    open: int = 0
    requests: list[Exchange] = field(default_factory=list)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v1/x"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                body = await reader.readexactly(size)
                self.requests.append(Exchange(number, head, body, reader, writer))
                await self.script(self.requests[-1])
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    async def stop(self) -> None:
        self._server.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Upstream]]]:
    upstreams: list[Upstream] = []

    async def start(script: Script | bytes, tls: ssl.SSLContext | None = None) -> Upstream:
        async def constant(exchange: Exchange) -> None:
            assert isinstance(script, bytes)
            await exchange.send(script)

        upstream = Upstream(constant if isinstance(script, bytes) else script, tls)
        await upstream.start()
        upstreams.append(upstream)
        return upstream

    yield start
    for upstream in upstreams:
        await upstream.stop()


@pytest.fixture
async def http() -> AsyncIterator[HttpTransport]:
    transport = HttpTransport(stale_idle_ms=0)
    yield transport
    await transport.close()


@pytest.fixture(params=[HttpTransport, LibraryTransport])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    transport = request.param()
    yield transport
    await transport.close()


@pytest.fixture
def post() -> Callable[..., HttpRequest]:
    def make(url: str, body: bytes = b"{}", **headers: str) -> HttpRequest:
        pairs = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
        return HttpRequest(method="POST", url=url, headers=pairs, body=body)

    return make


@pytest.fixture
def soon() -> Timeouts:
    """Limits short enough to wait for in a test."""
    return Timeouts(connect_ms=300, first_byte_ms=300, idle_ms=300)


@pytest.fixture
def patient() -> Timeouts:
    return Timeouts(connect_ms=5_000, first_byte_ms=5_000, idle_ms=5_000)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A private certificate authority: the CA file, and a server context for ``localhost`` alone."""
    folder = tmp_path_factory.mktemp("ca")
    new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]

    def openssl(*arguments: str) -> None:
        subprocess.run([*new, *arguments], cwd=folder, check=True, capture_output=True)

    openssl("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA", "-addext", "keyUsage=keyCertSign")
    openssl(
        "-keyout", "s.key", "-out", "s.pem", "-subj", "/CN=upstream", "-CA", "ca.pem", "-CAkey", "ca.key",
        "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "s.pem", folder / "s.key")
    return folder / "ca.pem", context
