"""A gateway and a simulated provider in one virtual time: days of traffic in seconds, the same in every run.

The pipeline, the codecs, the simulator and every byte between them are the real ones; only sockets and waiting are
left out. What it books is the truth that replays are held against.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import msgspec

from farthing import bootstrap
from farthing.adapters.cache_memory import MemoryCache
from farthing.adapters.codecs import codec_of
from farthing.adapters.memory import MemoryBooks
from farthing.config import Settings, dialect_of
from farthing.core.errors import FarthingError, Overloaded, StreamBroken, TimedOut
from farthing.core.types import Dialect, Endpoint, Exchange, LedgerEntry, Request, Scope
from farthing.engine.background import Background
from farthing.engine.caching import Caching
from farthing.engine.pipeline import handle
from farthing.engine.record import Recorder
from farthing.engine.services import Services, Upstream
from farthing.lab.replay_time import VirtualLoop
from farthing.ports.books import Settlement
from farthing.ports.cache import Recall
from farthing.ports.prices import Prices
from farthing.ports.provider import HttpReply, HttpRequest, Timeouts
from farthing.ports.reply import Headers
from farthing.ports.tokens import Tokenizer
from farthing.server.app import read_view
from farthing.sim.app import SimApp, create_app
from farthing.sim.http import TRANSPORT
from farthing.sim.settings import SimSettings

START_MS = 1_795_000_000_000
MakeRecall = Callable[[Services, Recorder], Recall]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a caller."""

    at_ms: int
    """After the start."""
    body: dict[str, Any]
    dialect: Dialect = "openai"
    endpoint: Endpoint = "chat"
    scope: Scope = Scope()
    headers: tuple[tuple[bytes, bytes], ...] = ()
    leaves_after_ms: int | None = None
    """The caller hangs up so long after asking; None: it stays."""


class World:
    """One gateway under one policy, asked once."""

    def __init__(
        self,
        settings: Settings,
        *,
        prices: Prices,
        tokens: Tokenizer,
        sim: SimSettings | None = None,
        similar: MakeRecall | None = None,
        commit_ms: int = 0,
    ) -> None:
        """``similar`` makes the semantic cache, where there is one. ``commit_ms``: how long a settlement is."""
        self.loop = VirtualLoop(START_MS)
        self.settings = settings
        chosen = msgspec.structs.replace(
            sim or SimSettings(), now_ms=self.loop.now_ms, speed=1.0, instance="world", hang_limit_ms=60_000
        )
        self.sim: SimApp = create_app(chosen)
        self.books = _Books(commit_ms)
        transport = _Transport(self.loop, self.sim)
        policy, loop = settings.policy, self.loop
        nobody: Any = _Nobody(self.loop)
        self.services: Services = bootstrap.replay_services(
            settings,
            loop,
            nobody,
            nobody,
            prices=prices,
            tokens=tokens,
        )
        upstreams = {
            one.name: Upstream(
                codec=codec_of(one, "sk-sim"),
                transport=transport,
                include_usage=one.include_usage,
                speaks=dialect_of(one),
            )
            for one in settings.providers
        }
        caching = Caching(policy.cache, MemoryCache(), owner="world") if policy.cache else None
        self.background = Background(self.books, loop)
        self.services = replace(
            self.services,
            upstreams=upstreams,
            books=self.books,
            telemetry=nobody,
            background=self.background,
            caching=caching,
            routing=bootstrap.routing_of(settings),
        )
        self.recorder = Recorder(text="none", redact=(), salt=b"world", policy_ref=policy.ref)
        if caching is not None and similar is not None:
            caching.recall = similar(self.services, self.recorder)

    def run(self, asks: Iterable[Ask]) -> None:
        """Serves all calls, in order of ``at_ms``."""
        recall = self.services.caching.recall if self.services.caching is not None else None
        if recall is not None:
            self.loop.run_until_complete(recall.start())
        self.loop.serve(self._arrivals(asks))
        for exchange in self.background.take_unlogged():
            self.books.exchange(exchange)

    def exchanges(self) -> list[Exchange]:
        """The traffic log, in the order in which calls ended."""
        return list(self.books.exchanges())

    def entries(self) -> dict[str, list[LedgerEntry]]:
        """The ledger by request."""
        found: dict[str, list[LedgerEntry]] = {}
        for entry in self.books.entries():
            found.setdefault(entry.request_id, []).append(entry)
        return found

    def billed(self) -> int:
        """What the provider's own invoice comes to, in nano-USD."""
        return self.sim.account.invoice.total_nusd

    def _arrivals(self, asks: Iterable[Ask]) -> Iterator[tuple[float, Callable[[], Coroutine[Any, Any, None]]]]:
        for number, ask in enumerate(asks):

            async def serve(number: int = number, ask: Ask = ask) -> None:
                await self._serve(number, ask)

            yield ask.at_ms / 1000, serve

    async def _serve(self, number: int, ask: Ask) -> None:
        body = msgspec.json.encode(ask.body)
        request = Request(
            id=f"r{number:05d}",
            received_at_ms=self.loop.now_ms(),
            dialect=ask.dialect,
            body=body,
            headers=ask.headers,
            view=read_view(ask.endpoint, body),
            scope=ask.scope,
        )
        leaves = None if ask.leaves_after_ms is None else request.received_at_ms + ask.leaves_after_ms
        with suppress(FarthingError):  # the log has it
            await handle(self.services, self.recorder, request, Caller(self.loop, leaves))


class Caller:
    """A caller that takes what it gets, and may leave."""

    def __init__(self, loop: VirtualLoop, leaves_at_ms: int | None) -> None:
        self._loop = loop
        self._leaves_at_ms = leaves_at_ms

    @property
    def gone(self) -> bool:
        return self._leaves_at_ms is not None and self._loop.now_ms() >= self._leaves_at_ms

    async def whole(self, status: int, headers: Headers, body: bytes) -> None: ...

    async def start(self, status: int, headers: Headers) -> None: ...

    async def write(self, data: bytes) -> None: ...

    async def end(self, data: bytes) -> None: ...

    async def wait_gone(self) -> None:
        if self._leaves_at_ms is None:
            await asyncio.get_running_loop().create_future()
        else:
            await self._loop.until(self._loop.at(self._leaves_at_ms))


class _Books(MemoryBooks):
    """The reference store, which also takes exchanges that no entry goes with."""

    def __init__(self, commit_ms: int) -> None:
        super().__init__()
        self._commit_ms = commit_ms

    def exchange(self, exchange: Exchange) -> None:
        self._exchanges.setdefault(exchange.request_id, exchange)

    async def settle(self, settlement: Settlement, *, now_ms: int) -> None:
        await super().settle(settlement, now_ms=now_ms)
        if self._commit_ms:
            await asyncio.sleep(self._commit_ms / 1000)


class _Nobody:
    """Telemetry that nobody reads."""

    answers: object = None

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.flights: dict[str, object] = {}

    def codec(self, real: object) -> object:
        return real

    def exchange(self, exchange: Exchange, entries: tuple[LedgerEntry, ...]) -> None: ...

    def ended(self, view: object, provider: str, ending: object, entries: object) -> None: ...

    def spent(self, entry: LedgerEntry) -> None: ...

    def attempt_failed(self, provider: str, code: str) -> None: ...

    def store_failed(self, code: str) -> None: ...


class _Transport:
    """``Transport`` to an ASGI application on the same loop."""

    def __init__(self, loop: VirtualLoop, app: SimApp) -> None:
        self._loop = loop
        self._app = app

    async def send(self, request: HttpRequest, *, timeouts: Timeouts) -> HttpReply:
        pipe = _Pipe(request.body)
        path = urlsplit(request.url)
        scope = {
            "type": "http",
            "method": request.method,
            "path": path.path,
            "query_string": path.query.encode(),
            "headers": list(request.headers),
            TRANSPORT: pipe,
        }
        pipe.task = self._loop.create_task(pipe.serve(self._app, scope))
        try:
            async with asyncio.timeout(timeouts.first_byte_ms / 1000):
                await pipe.head()
        except TimeoutError:
            pipe.close()
            raise TimedOut("The simulator did not begin to answer.") from None
        return pipe

    async def close(self) -> None: ...


class _Pipe:
    """One exchange: to the simulator its connection's transport, to the pipeline a reply."""

    def __init__(self, body: bytes) -> None:
        self.status = 0
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.task: asyncio.Task[None] | None = None
        self._messages: deque[dict[str, Any]] = deque([{"type": "http.request", "body": body}])
        self._chunks: deque[bytes] = deque()
        self._closed = self._ended = False
        self._changed = asyncio.Event()

    # -- the simulator's side

    async def serve(self, app: SimApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        finally:
            self.close()

    async def _receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.popleft()
        while not self._closed:
            await self._wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = tuple((name.lower(), value) for name, value in message["headers"])
        else:
            if message.get("body"):
                self._chunks.append(message["body"])
            self._ended = self._ended or not message.get("more_body", False)
        self._wake()

    def is_closing(self) -> bool:
        return self._closed

    def get_extra_info(self, name: str) -> None:
        return None

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        self._closed = True
        self._wake()

    # -- the pipeline's side

    async def head(self) -> None:
        while not self.status:
            if self._closed:
                raise Overloaded("The simulator dropped the connection.", sent=True)
            await self._wait()

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            while self._chunks:
                yield self._chunks.popleft()
            if self._ended:
                return
            if self._closed:
                raise StreamBroken("The simulator cut its answer.", status=self.status)
            await self._wait()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
