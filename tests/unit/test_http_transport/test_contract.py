"""What every transport promises, on real sockets."""

import asyncio

import pytest

from farthing.core.errors import BadRequest, ConfigError, Overloaded, StreamBroken, TimedOut
from farthing.ports.provider import HttpRequest, Timeouts

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def hang(exchange):
    await exchange.gone()


async def test_a_body_with_a_length_is_read_whole_and_the_connection_is_reused(transport, serve, post, patient):
    upstream = await serve(OK)
    for _ in range(5):
        reply = await transport.send(post(upstream.url), timeouts=patient)
        assert (reply.status, await reply.read()) == (200, b"hello")
    assert upstream.connections == 1


async def test_the_request_arrives_as_it_was_given(transport, serve, post, patient):
    upstream = await serve(OK)
    body = bytes(range(256)) * 1024
    request = post(upstream.url + "?a=1&b=%20", body, authorization="Bearer k", x_extra="1")
    await (await transport.send(request, timeouts=patient)).read()
    seen = upstream.requests[0]
    lines = seen.head.split(b"\r\n")
    assert lines[0] == b"POST /v1/x?a=1&b=%20 HTTP/1.1"
    assert f"host: 127.0.0.1:{upstream.port}".encode() in [line.lower() for line in lines]
    assert b"authorization: Bearer k" in lines
    assert b"x-extra: 1" in lines
    assert seen.body == body


async def test_headers_keep_their_order_and_repetitions_with_lower_case_names(transport, serve, post, patient):
    upstream = await serve(
        b"HTTP/1.1 200 OK\r\nX-B: 1\r\nSet-Cookie: a\r\nX-A:\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n"
    )
    reply = await transport.send(post(upstream.url), timeouts=patient)
    assert await reply.read() == b""
    assert reply.headers == (
        (b"x-b", b"1"), (b"set-cookie", b"a"), (b"x-a", b""), (b"set-cookie", b"b"), (b"content-length", b"0"),
    )  # fmt: skip


async def test_chunks_are_delivered_as_they_arrive_and_never_empty(transport, serve, post, patient):
    said: list[asyncio.Event] = [asyncio.Event() for _ in range(4)]

    async def script(exchange):
        await exchange.send(CHUNKED)
        for event in said[:-1]:
            await exchange.send(b"3\r\nabc\r\n")
            await asyncio.wait_for(event.wait(), 5)  # the next piece is sent only once this one was received
        await exchange.send(b"0\r\n\r\n")

    upstream = await serve(script)
    reply = await transport.send(post(upstream.url), timeouts=patient)
    got = []
    async for chunk in reply.chunks():
        got.append(chunk)
        said[len(got) - 1].set()
    assert got == [b"abc", b"abc", b"abc"]


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_leave_the_connection_usable(transport, serve, post, patient, status):
    upstream = await serve(b"HTTP/1.1 %d x\r\n\r\n" % status)
    for _ in range(2):
        reply = await transport.send(post(upstream.url), timeouts=patient)
        assert (reply.status, await reply.read()) == (status, b"")
    assert upstream.connections == 1


async def test_a_body_without_a_length_ends_with_the_connection(transport, serve, post, patient):
    async def script(exchange):
        await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n", b"until ", b"close")
        exchange.writer.close()

    upstream = await serve(script)
    reply = await transport.send(post(upstream.url), timeouts=patient)
    assert await reply.read() == b"until close"


async def test_interim_answers_are_skipped(transport, serve, post, patient):
    upstream = await serve(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK)
    reply = await transport.send(post(upstream.url), timeouts=patient)
    assert reply.headers == ((b"content-length", b"5"),)
    assert await reply.read() == b"hello"


async def test_an_error_status_is_an_answer_like_any_other(transport, serve, post, patient):
    upstream = await serve(b"HTTP/1.1 529 x\r\ncontent-length: 2\r\n\r\nno")
    reply = await transport.send(post(upstream.url), timeouts=patient)
    assert (reply.status, await reply.read()) == (529, b"no")


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf",
        CHUNKED + b"4\r\nhalf\r\n",
        CHUNKED + b"9\r\nhalf",
    ],
)
async def test_an_answer_cut_in_its_body_is_broken(transport, serve, post, patient, start):
    async def script(exchange):
        await exchange.send(start)
        exchange.writer.close()

    upstream = await serve(script)
    got = []
    reply = await transport.send(post(upstream.url), timeouts=patient)
    chunks = reply.chunks()
    while b"".join(got) != b"half":
        got.append(await anext(chunks))
    with pytest.raises(StreamBroken) as caught:
        await anext(chunks)
    assert caught.value.sent
    reply = await transport.send(post(upstream.url), timeouts=patient)
    with pytest.raises(StreamBroken):
        await reply.read()


async def test_an_answer_cut_in_its_head_is_overloaded_and_was_sent(transport, serve, post, patient):
    async def script(exchange):
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-le")
        exchange.writer.close()

    upstream = await serve(script)
    with pytest.raises(Overloaded) as caught:
        await transport.send(post(upstream.url), timeouts=patient)
    assert caught.value.sent
    assert upstream.connections == 1


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x16"]
)
async def test_an_answer_that_is_not_http_is_overloaded(transport, serve, post, patient, garbage):
    upstream = await serve(garbage + b"\r\n" * 8)
    with pytest.raises(Overloaded) as caught:
        await transport.send(post(upstream.url), timeouts=patient)
    assert caught.value.sent


async def test_no_listener_is_overloaded_and_was_not_sent(transport, serve, post, patient):
    upstream = await serve(OK)
    await upstream.stop()
    with pytest.raises(Overloaded) as caught:
        await transport.send(post(upstream.url), timeouts=patient)
    assert not caught.value.sent
    assert str(upstream.port) in caught.value.message


async def test_a_server_that_never_answers_times_out(transport, serve, post, soon):
    upstream = await serve(hang)
    with pytest.raises(TimedOut) as caught:
        await transport.send(post(upstream.url), timeouts=soon)
    assert caught.value.sent
    await asyncio.wait_for(_until(lambda: upstream.open == 0), 5)


async def test_a_head_that_trickles_in_for_ever_times_out(http, serve, post, soon):
    async def script(exchange):
        await exchange.send(b"HTTP/1.1 200 OK\r\n")
        while not exchange.writer.is_closing():
            await exchange.send(b"x-a: 1\r\n")
            await asyncio.sleep(0.05)

    upstream = await serve(script)
    with pytest.raises(TimedOut):
        await http.send(post(upstream.url), timeouts=soon)


async def test_a_stream_that_falls_silent_times_out(transport, serve, post, soon):
    async def script(exchange):
        await exchange.send(CHUNKED + b"1\r\na\r\n")
        await exchange.gone()

    upstream = await serve(script)
    reply = await transport.send(post(upstream.url), timeouts=soon)
    chunks = reply.chunks()
    assert await anext(chunks) == b"a"
    with pytest.raises(TimedOut, match="silent"):
        await anext(chunks)


async def test_a_long_answer_with_short_silences_does_not_time_out(transport, serve, post):
    async def script(exchange):
        await exchange.send(CHUNKED)
        for _ in range(10):
            await asyncio.sleep(0.06)
            await exchange.send(b"1\r\na\r\n")
        await exchange.send(b"0\r\n\r\n")

    upstream = await serve(script)
    reply = await transport.send(
        post(upstream.url), timeouts=Timeouts(connect_ms=5_000, first_byte_ms=5_000, idle_ms=400)
    )
    assert await reply.read() == b"a" * 10


async def test_closing_early_disconnects_the_upstream_at_once(transport, serve, post, patient):
    left = asyncio.Event()

    async def script(exchange):
        await exchange.send(CHUNKED + b"1\r\na\r\n")
        if await exchange.gone():
            left.set()

    upstream = await serve(script)
    reply = await transport.send(post(upstream.url), timeouts=patient)
    assert await anext(reply.chunks()) == b"a"
    reply.close()
    reply.close()
    await asyncio.wait_for(left.wait(), 2)
    with pytest.raises(StreamBroken):
        await anext(reply.chunks())


@pytest.mark.parametrize("phase", ["head", "read"])
async def test_cancelling_disconnects_the_upstream(transport, serve, post, patient, phase):
    arrived, left = asyncio.Event(), asyncio.Event()

    async def script(exchange):
        if phase == "read":
            await exchange.send(CHUNKED + b"1\r\na\r\n")
        arrived.set()
        if await exchange.gone():
            left.set()

    upstream = await serve(script)

    async def call():
        await (await transport.send(post(upstream.url), timeouts=patient)).read()

    task = asyncio.create_task(call())
    await arrived.wait()
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(left.wait(), 2)


async def test_a_closed_transport_refuses_to_send(transport, serve, post, patient):
    upstream = await serve(OK)
    await (await transport.send(post(upstream.url), timeouts=patient)).read()
    await transport.close()
    await transport.close()
    with pytest.raises(Overloaded, match="closed") as caught:
        await transport.send(post(upstream.url), timeouts=patient)
    assert not caught.value.sent
    await asyncio.wait_for(_until(lambda: upstream.open == 0), 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x", b"a\r\nx-injected: 1"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\0b"),
        (b"x\r\ny", b"1"),
        (b"x y", b"1"),
        (b"", b"1"),
        (b"host", b"elsewhere"),
        (b"Content-Length", b"0"),
        (b"transfer-encoding", b"chunked"),
    ],
)
async def test_headers_that_could_smuggle_are_refused(transport, serve, patient, name, value):
    upstream = await serve(OK)
    request = HttpRequest(method="POST", url=upstream.url, headers=((b"ok", b"1"), (name, value)), body=b"{}")
    with pytest.raises(BadRequest):
        await transport.send(request, timeouts=patient)
    assert upstream.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://h/a b",
        "http://h/\r\nx: y",
        "ftp://h/",
        "/v1",
        "http://",
        "http://u:p@h/",
        "http://h:99999/",
        "http://h/é",
    ],
)
async def test_unusable_urls_are_refused(transport, patient, url):
    with pytest.raises(BadRequest):
        await transport.send(HttpRequest(method="POST", url=url, headers=()), timeouts=patient)


async def test_tls_is_verified(transport, serve, post, patient, authority):
    upstream = await serve(OK, authority[1])
    with pytest.raises(Overloaded, match=r"(?i)certificate") as caught:
        await transport.send(post(upstream.url), timeouts=patient)
    assert not caught.value.sent


async def test_a_private_authority_is_accepted(transport, serve, post, patient, authority):
    upstream = await serve(OK, authority[1])
    trusting = type(transport)(ca_file=str(authority[0]))
    try:
        for _ in range(3):
            reply = await trusting.send(post(upstream.url.replace("127.0.0.1", "localhost")), timeouts=patient)
            assert await reply.read() == b"hello"
    finally:
        await trusting.close()
    assert upstream.connections == 1


async def test_an_authority_does_not_excuse_a_wrong_name(transport, serve, post, patient, authority):
    upstream = await serve(OK, authority[1])
    trusting = type(transport)(ca_file=str(authority[0]))
    try:
        with pytest.raises(Overloaded, match=r"(?i)ip address"):
            await trusting.send(post(upstream.url), timeouts=patient)
    finally:
        await trusting.close()


async def test_an_unusable_authority_file_is_refused_at_the_start(transport, tmp_path):
    with pytest.raises(ConfigError, match=r"none\.pem"):
        type(transport)(ca_file=str(tmp_path / "none.pem"))


async def _until(condition):
    while not condition():
        await asyncio.sleep(0.01)
