"""HTTP/2-only upstreams and proxies, over the library."""

import asyncio
import contextlib
import ssl

import h2.config
import h2.connection
import h2.events
import pytest

from farthing.adapters.http import LibraryTransport
from farthing.core.errors import ConfigError, Overloaded, StreamBroken

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


class Http2Upstream(asyncio.Protocol):
    """Answers every HTTP/2 request in two pieces, or resets it in the middle when its path says ``reset``."""

    def __init__(self) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._paths: dict[int, bytes] = {}

    def connection_made(self, transport) -> None:
        self._transport = transport
        self._h2.initiate_connection()
        transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self._paths[event.stream_id] = dict(event.headers)[b":path"]
            elif isinstance(event, h2.events.StreamEnded):
                self._answer(event.stream_id)
        self._transport.write(self._h2.data_to_send())

    def _answer(self, stream: int) -> None:
        self._h2.send_headers(stream, [(":status", "200"), ("x-a", "1"), ("x-a", "2")])
        self._h2.send_data(stream, b"hel")
        if b"reset" in self._paths[stream]:
            self._h2.reset_stream(stream)
        else:
            self._h2.send_data(stream, b"lo", end_stream=True)


@contextlib.asynccontextmanager
async def http2_upstream(tls: ssl.SSLContext | None = None):
    made: list[Http2Upstream] = []

    def make() -> Http2Upstream:
        made.append(Http2Upstream())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0, ssl=tls)
    yield server.sockets[0].getsockname()[1], made
    for protocol in made:
        protocol._transport.abort()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_http2_only_upstream_is_spoken_to(post, patient, authority, scheme):
    ca_file, tls = authority
    tls.set_alpn_protocols(["h2"])
    transport = LibraryTransport(http2=True, ca_file=str(ca_file))
    async with http2_upstream(tls if scheme == "https" else None) as (port, made):
        for _ in range(3):
            reply = await transport.send(post(f"{scheme}://localhost:{port}/v1"), timeouts=patient)
            assert (reply.status, reply.headers) == (200, ((b"x-a", b"1"), (b"x-a", b"2")))
            assert await reply.read() == b"hello"
        assert len(made) == 1
        await transport.close()


async def test_a_reset_stream_is_broken(post, patient):
    transport = LibraryTransport(http2=True)
    async with http2_upstream() as (port, _):
        reply = await transport.send(post(f"http://127.0.0.1:{port}/reset"), timeouts=patient)
        with pytest.raises(StreamBroken) as caught:
            await reply.read()
        assert caught.value.sent
        await transport.close()


async def test_a_proxy_carries_the_request(serve, post, patient):
    proxy = await serve(OK)
    transport = LibraryTransport(proxy=proxy.url)
    reply = await transport.send(post("http://upstream.invalid/v1/x"), timeouts=patient)
    assert await reply.read() == b"hello"
    assert proxy.requests[0].head.startswith(b"POST http://upstream.invalid/v1/x HTTP/1.1\r\n")
    await transport.close()


async def test_a_tunnel_that_the_proxy_refuses_means_that_nothing_was_sent(serve, post, patient):
    proxy = await serve(b"HTTP/1.1 403 no\r\ncontent-length: 0\r\n\r\n")
    transport = LibraryTransport(proxy=proxy.url)
    with pytest.raises(Overloaded) as caught:
        await transport.send(post("https://upstream.invalid/v1/x"), timeouts=patient)
    assert not caught.value.sent
    assert proxy.requests[0].head.startswith(b"CONNECT upstream.invalid:443 ")
    await transport.close()


@pytest.mark.parametrize("proxy", ["ftp://p", "not a url", "socks5://p:1"])
async def test_a_proxy_that_cannot_be_used_is_refused_at_the_start(proxy):
    with pytest.raises(ConfigError, match="proxy"):
        LibraryTransport(proxy=proxy)
