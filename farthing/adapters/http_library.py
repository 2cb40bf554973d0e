"""The transport for upstreams that need HTTP/2 or a proxy: the same contract, over httpx.

It costs about ten times the CPU time of ``HttpTransport`` and is chosen per provider (``http = "2"``, ``proxy``).
It never sends a request twice. Proxies named in the environment are ignored: only the settings count.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx

from farthing.adapters.http_reply import READ_LIMIT
from farthing.adapters.http_request import HeadWriter, Origin
from farthing.adapters.http_tls import client_tls
from farthing.core.errors import ConfigError, Overloaded, ProviderFailed, StreamBroken, TimedOut
from farthing.ports.provider import HttpReply, HttpRequest, Timeouts

Release = Callable[[httpx.Response], None]
"""Takes back an answer that was not read to its end."""
_FAILURES = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError)


class LibraryTransport:
    """HTTP/2 (and only that, as configured) or HTTP/1.1, optionally through a proxy."""

    def __init__(
        self, *, http2: bool = False, proxy: str = "", ca_file: str = "", max_connections: int = 1024
    ) -> None:
        """Raises ``ConfigError`` for a proxy URL or CA file that cannot be used."""
        try:
            self._client = httpx.AsyncClient(
                http1=not http2,
                http2=http2,
                proxy=proxy or None,
                verify=client_tls(ca_file, alpn=("h2",) if http2 else ("http/1.1",)),
                trust_env=False,
                follow_redirects=False,
                limits=httpx.Limits(max_connections=max_connections, keepalive_expiry=50.0),
            )
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            raise ConfigError(
                [f"proxy {proxy!r} cannot be used: {error}. Give an http:// or https:// URL."], source="proxy"
            ) from None
        self._writer = HeadWriter()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def send(self, request: HttpRequest, *, timeouts: Timeouts) -> HttpReply:
        origin, start = self._writer.start(request.method, request.url)
        self._writer.head(start, request)  # the same refusals as the other transport
        if self._closed:
            raise Overloaded(f"no connection to {origin}: the transport is closed", sent=False)
        return await _Attempt(origin, request, timeouts).send(self._client, self._release)

    async def close(self) -> None:
        self._closed = True
        await self._client.aclose()
        while self._closing:
            await asyncio.wait(self._closing)

    def _release(self, response: httpx.Response) -> None:
        """Closes an answer that was not read to its end; httpx can do that only asynchronously."""
        task = asyncio.get_running_loop().create_task(_close(response))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Attempt:
    """One request, with the time-out of the phase that it is in: connecting, then waiting for the head."""

    def __init__(self, origin: Origin, request: HttpRequest, timeouts: Timeouts) -> None:
        self._origin = origin
        self._request = request
        self._timeouts = timeouts
        self._sent = False
        self._limit = asyncio.timeout(timeouts.connect_ms / 1000)

    async def send(self, client: httpx.AsyncClient, release: Release) -> HttpReply:
        request = self._request
        try:
            async with self._limit:
                outgoing = httpx.Request(
                    request.method,
                    request.url,
                    headers=list(request.headers),
                    content=request.body,
                    extensions={"trace": self._trace, "timeout": {}},
                )
                response = await client.send(outgoing, stream=True)
        except TimeoutError:
            raise self._late() from None
        except _FAILURES as error:
            if self._sent:
                raise Overloaded(f"{self._origin} failed before it answered: {_text(error)}") from None
            raise Overloaded(f"no connection to {self._origin}: {_text(error)}", hint=_REACH, sent=False) from None
        return _LibraryReply(response, self._origin, self._timeouts.idle_ms, release)

    async def _trace(self, event: str, info: object) -> None:
        # From here on the provider may see the request: the limit for connecting gives way to that for the head.
        if event.endswith("send_request_headers.started") and not self._is_connect(info):
            self._sent = True
            self._limit.reschedule(asyncio.get_running_loop().time() + self._timeouts.first_byte_ms / 1000)

    @staticmethod
    def _is_connect(info: object) -> bool:
        """Whether this is the tunnel's own request to a proxy."""
        request = info.get("request") if isinstance(info, dict) else None
        return getattr(request, "method", b"") == b"CONNECT"

    def _late(self) -> ProviderFailed:
        if self._sent:
            limit = self._timeouts.first_byte_ms / 1000
            return TimedOut(f"{self._origin} did not begin to answer within {limit:g} s", hint=_SLOW_HINT)
        limit_ms = self._timeouts.connect_ms
        return Overloaded(f"no connection to {self._origin} within {limit_ms} ms", hint=_REACH, sent=False)


class _LibraryReply:
    """Implements ``ports.provider.HttpReply``."""

    def __init__(self, response: httpx.Response, origin: Origin, idle_ms: int, release: Release) -> None:
        self.status = response.status_code
        self.headers = tuple((name.lower(), value) for name, value in response.headers.raw)
        self._response = response
        self._origin = origin
        self._idle_s = idle_ms / 1000
        self._release = release
        self._stream = response.aiter_raw()
        self._ended = False
        self._error: ProviderFailed | None = None

    async def read(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async for part in self:
                parts.append(part)
                size += len(part)
                if size > READ_LIMIT:
                    raise self._failed(StreamBroken(f"{self._origin} sent a body of more than {READ_LIMIT} bytes"))
        except asyncio.CancelledError:
            self.close()
            raise
        return b"".join(parts)

    def chunks(self) -> AsyncIterator[bytes]:
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._error is not None:
            raise self._error
        try:
            while True:
                async with asyncio.timeout(self._idle_s):
                    part = await anext(self._stream)
                if part:
                    return part
        except StopAsyncIteration:
            self._ended = True
            raise
        except TimeoutError:
            message = f"{self._origin} fell silent for {self._idle_s:g} s in the middle of its answer"
            raise self._failed(TimedOut(message)) from None
        except _FAILURES as error:
            message = f"{self._origin} broke off its answer: {_text(error)}"
            raise self._failed(StreamBroken(message, status=self.status)) from None

    def close(self) -> None:
        if not self._ended:
            self._failed(StreamBroken(f"the answer from {self._origin} was closed before its end"))

    def _failed(self, error: ProviderFailed) -> ProviderFailed:
        if self._error is None:
            self._error = error
            self._release(self._response)
        return self._error


async def _close(response: httpx.Response) -> None:
    try:
        await response.aclose()
    except (*_FAILURES, RuntimeError):  # RuntimeError: its generator is being cancelled at this moment
        return


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


_REACH = "Check the provider's base_url, the proxy, and that this host can reach them."
_SLOW_HINT = "Raise limits.first_byte_timeout for slow models, or stream."
