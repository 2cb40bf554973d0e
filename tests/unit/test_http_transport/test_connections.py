"""The hand-made client: reuse, limits, backpressure, and every way a connection can end."""

import asyncio
import socket
import threading

import pytest

from farthing.adapters.http import HttpTransport, LibraryTransport, open_transport
from farthing.adapters.http_connection import BUFFER_LIMIT, HEAD_LIMIT
from farthing.core.errors import Overloaded, StreamBroken
from farthing.ports.provider import HttpRequest, Timeouts

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def ask(http, request, timeouts):
    reply = await http.send(request, timeouts=timeouts)
    return reply.status, await reply.read()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello", "the server will close"),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", "HTTP/1.0 does not keep alive"),
        (OK + b"x", "a surplus byte"),
        (OK + OK, "a surplus answer"),
        (OK + b"garbage", "surplus garbage"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\nHTT", "the beginning of a surplus answer"),
    ],
)
async def test_a_connection_that_cannot_be_trusted_is_not_reused(http, serve, post, patient, answer, why):
    upstream = await serve(answer)
    for _ in range(3):
        assert await ask(http, post(upstream.url), patient) == (200, b"hello"), why
    assert upstream.connections == 3, why


async def test_surplus_bytes_after_the_answer_was_taken_end_the_connection(http, serve, post, patient):
    async def script(exchange):
        await exchange.send(OK)
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")

    upstream = await serve(script)
    assert await ask(http, post(upstream.url), patient) == (200, b"hello")
    await until(lambda: upstream.open == 0)
    assert await ask(http, post(upstream.url), patient) == (200, b"hello")


async def test_a_connection_that_the_server_closed_while_idle_is_not_used(http, serve, post, patient):
    async def script(exchange):
        await exchange.send(OK)
        exchange.writer.close()

    upstream = await serve(script)
    for number in range(1, 4):
        assert await ask(http, post(upstream.url), patient) == (200, b"hello")
        await until(lambda: upstream.open == 0)
        await asyncio.sleep(0.01)
        assert upstream.connections == number


async def test_a_half_closed_connection_is_not_used(http, serve, post, patient):
    async def script(exchange):
        await exchange.send(OK)
        exchange.writer.write_eof()
        await exchange.gone()

    upstream = await serve(script)
    for number in range(1, 4):
        assert await ask(http, post(upstream.url), patient) == (200, b"hello")
        await asyncio.sleep(0.02)
        assert upstream.connections == number
    assert len(upstream.requests) == 3


async def test_a_request_that_was_read_is_not_sent_again_however_soon_the_connection_dies(http, serve, post, patient):
    """The provider, or a proxy on the way, died with the request in its hands: it may be billed."""

    async def script(exchange):
        if len(upstream.requests) == 2:
            exchange.writer.transport.abort()
        else:
            await exchange.send(OK)

    upstream = await serve(script)
    assert await ask(http, post(upstream.url), patient) == (200, b"hello")
    with pytest.raises(Overloaded) as caught:
        await http.send(post(upstream.url), timeouts=patient)
    assert caught.value.sent
    assert len(upstream.requests) == 2
    assert await ask(http, post(upstream.url), patient) == (200, b"hello")


async def test_an_idle_connection_that_has_ended_unseen_carries_no_request(http, post, patient):
    """Its end waits in the kernel while the event loop is busy with something else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()
        requests: list[bytes] = []

        def serve_two() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                requests.append(connection.recv(65_536))
                connection.sendall(OK)
                if len(requests) == 1:
                    hang_up.wait(10)
                connection.close()
                ended.set()

        hang_up = threading.Event()
        thread = threading.Thread(target=serve_two, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        assert await ask(http, post(url), patient) == (200, b"hello")
        hang_up.set()
        ended.wait(10)  # this blocks the event loop on purpose
        assert await ask(http, post(url), patient) == (200, b"hello")
        thread.join(10)
        assert len(requests) == 2


async def test_a_first_use_of_a_connection_is_never_retried(http, serve, post, patient):
    async def script(exchange):
        exchange.writer.transport.abort()

    upstream = await serve(script)
    with pytest.raises(Overloaded) as caught:
        await http.send(post(upstream.url), timeouts=patient)
    assert caught.value.sent
    assert len(upstream.requests) == 1


async def test_a_request_that_the_server_held_before_it_hung_up_is_not_sent_again(http, serve, post, patient):
    async def script(exchange):
        if len(upstream.requests) == 1:
            await exchange.send(OK)
        else:
            await asyncio.sleep(0.3)  # it may have been worked on, and billed
            exchange.writer.close()

    upstream = await serve(script)
    assert await ask(http, post(upstream.url), patient) == (200, b"hello")
    with pytest.raises(Overloaded) as caught:
        await http.send(post(upstream.url), timeouts=patient)
    assert caught.value.sent
    assert len(upstream.requests) == 2


async def test_a_failure_after_the_first_byte_is_never_retried(http, serve, post, patient):
    async def script(exchange):
        if len(upstream.requests) == 1:
            await exchange.send(OK)
        else:
            await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            exchange.writer.close()

    upstream = await serve(script)
    assert await ask(http, post(upstream.url), patient) == (200, b"hello")
    with pytest.raises(Overloaded):
        await http.send(post(upstream.url), timeouts=patient)
    assert len(upstream.requests) == 2


async def test_a_lagging_consumer_stops_the_reading(http, serve, post, patient):
    sent = 0
    piece = b"%x\r\n" % 65536 + b"z" * 65536 + b"\r\n"

    async def script(exchange):
        nonlocal sent
        exchange.writer.transport.set_write_buffer_limits(high=65536)
        await exchange.send(CHUNKED)
        for _ in range(800):  # 50 MB: more than all socket buffers between us
            exchange.writer.write(piece)
            await exchange.writer.drain()
            sent += 65536
        await exchange.send(b"0\r\n\r\n")

    upstream = await serve(script)
    reply = await http.send(post(upstream.url), timeouts=patient)
    while True:
        before = sent
        await asyncio.sleep(0.1)
        if sent == before:
            break
    assert sent < 800 * 65536
    assert reply.size <= BUFFER_LIMIT + 256 * 1024 + 1024  # one read may overshoot
    received = 0
    async for chunk in reply.chunks():
        assert len(chunk) <= BUFFER_LIMIT + 256 * 1024
        received += len(chunk)
    assert received == 800 * 65536
    assert await ask(http, post(upstream.url), patient) == (200, b"z" * 800 * 65536)
    assert upstream.connections == 1


async def test_silence_of_a_lagging_consumer_is_not_the_upstreams(http, serve, post, soon):
    body = b"z" * (32 << 20)
    upstream = await serve(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    reply = await http.send(post(upstream.url), timeouts=soon)
    await asyncio.sleep(1.0)
    assert await reply.read() == body


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * HEAD_LIMIT + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * HEAD_LIMIT * 8,
        b"HTTP/1.1 200 " + b"O" * HEAD_LIMIT * 8,
        b"HTTP/1.1 200 OK\r\n" + b"x: 1\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 8_000,
    ],
)
async def test_an_oversize_head_is_refused(http, serve, post, patient, head):
    upstream = await serve(head)
    with pytest.raises(Overloaded, match="65536"):
        await http.send(post(upstream.url), timeouts=patient)


async def test_a_large_head_within_the_limit_is_accepted(http, serve, post, patient):
    value = b"a" * (HEAD_LIMIT - 200)
    upstream = await serve(b"HTTP/1.1 200 OK\r\nx: " + value + b"\r\ncontent-length: 200000\r\n\r\n" + b"b" * 200_000)
    reply = await http.send(post(upstream.url), timeouts=patient)
    assert reply.headers[0] == (b"x", value)
    assert await reply.read() == b"b" * 200_000


@pytest.mark.parametrize(
    "framing",
    [
        b"0\r\n" + b"x-t: 1\r\n" * 100_000 + b"\r\n",
        b"0\r\nx-t: " + b"1" * 8 * HEAD_LIMIT,
        b"1;" + b"e" * 8 * HEAD_LIMIT,
    ],
)
@pytest.mark.parametrize("before", [(), (b"1\r\na\r\n",)])
async def test_endless_framing_between_pieces_of_body_is_refused(http, serve, post, patient, before, framing):
    async def script(exchange):
        await exchange.send(CHUNKED, *before)
        await asyncio.sleep(0.02)  # the reader is waiting for the whole body by now
        await exchange.send(framing)

    upstream = await serve(script)
    reply = await http.send(post(upstream.url), timeouts=patient)
    with pytest.raises(StreamBroken):
        await reply.read()


async def test_switching_protocols_is_refused(http, serve, post, patient):
    for answer in (b"upgrade: websocket\r\nconnection: upgrade\r\n", b""):
        upstream = await serve(b"HTTP/1.1 101 Switching Protocols\r\n" + answer + b"\r\n")
        with pytest.raises(Overloaded, match="switched protocols"):
            await http.send(post(upstream.url), timeouts=patient)


async def test_a_head_request_has_no_body_whatever_the_headers_say(http, serve, patient):
    upstream = await serve(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n")
    for _ in range(2):
        reply = await http.send(HttpRequest(method="HEAD", url=upstream.url, headers=()), timeouts=patient)
        assert (reply.status, await reply.read()) == (200, b"")


async def test_a_get_without_a_body_sends_no_length(http, serve, patient):
    upstream = await serve(OK)
    assert await ask(http, HttpRequest(method="GET", url=upstream.url, headers=()), patient) == (200, b"hello")
    assert b"content-length" not in upstream.requests[0].head


async def test_an_answer_that_ends_with_the_connection_is_broken_by_a_reset(http, serve, post, patient):
    async def script(exchange):
        await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n", b"half")
        exchange.writer.get_extra_info("socket").setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0: close resets
        exchange.writer.transport.abort()

    upstream = await serve(script)
    reply = await http.send(post(upstream.url), timeouts=patient)
    with pytest.raises(StreamBroken):
        await reply.read()


async def test_an_early_answer_to_a_large_upload_does_not_leave_a_reusable_connection(http, serve, post, patient):
    ended = []

    async def early(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 x\r\ncontent-length: 2\r\n\r\nno")
        await asyncio.sleep(0.1)
        try:
            while await reader.read(1 << 20):
                pass  # the rest of the upload, if the client goes on with it
        except ConnectionError:
            pass
        writer.transport.abort()
        ended.append(writer)

    server = await asyncio.start_server(early, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    for _ in range(2):
        assert await ask(http, post(url, b"x" * (32 << 20)), patient) == (413, b"no")
    await until(lambda: len(ended) == 2)
    server.close()
    await server.wait_closed()


async def test_connections_are_limited_and_waiters_are_served_in_order(serve, post, patient):
    running = most = 0

    async def script(exchange):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        await exchange.send(OK if len(upstream.requests) % 3 else OK + b"surplus")  # some connections are lost

    upstream = await serve(script)
    http = HttpTransport(max_connections=2)
    ended = []

    async def call(number):
        assert await ask(http, post(upstream.url), patient) == (200, b"hello")
        ended.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(call(number))
            await asyncio.sleep(0)
    assert most == 2
    assert all(abs(position - number) <= 2 for position, number in enumerate(ended))
    await http.close()


async def test_waiting_too_long_for_a_connection_is_overloaded_and_was_not_sent(serve, post, soon, patient):
    release = asyncio.Event()

    async def script(exchange):
        await release.wait()
        await exchange.send(OK)

    upstream = await serve(script)
    http = HttpTransport(max_connections=1)
    first = asyncio.create_task(ask(http, post(upstream.url), patient))
    await until(lambda: upstream.requests)
    with pytest.raises(Overloaded, match="waiting for one of its 1 connections") as caught:
        await http.send(post(upstream.url), timeouts=soon)
    assert not caught.value.sent
    cancelled = asyncio.create_task(ask(http, post(upstream.url), patient))
    waiting = asyncio.create_task(ask(http, post(upstream.url), patient))
    await asyncio.sleep(0.01)
    cancelled.cancel()
    release.set()
    assert await first == await waiting == (200, b"hello")
    assert len(upstream.requests) == 2
    await http.close()


async def test_slots_survive_cancelled_and_failed_exchanges(serve, post, soon, patient):
    async def script(exchange):
        if exchange.body == b"hang":
            await exchange.gone()
        elif exchange.body == b"cut":
            exchange.writer.transport.abort()
        else:
            await exchange.send(OK)

    upstream = await serve(script)
    http = HttpTransport(max_connections=3)
    quick = Timeouts(connect_ms=5_000, first_byte_ms=200, idle_ms=200)

    async def call(number):
        body = (b"hang", b"cut", b"fine", b"cancel")[number % 4]
        task = asyncio.create_task(ask(http, post(upstream.url, b"hang" if body == b"cancel" else body), quick))
        await asyncio.sleep(0.01 * (number % 7))
        if body == b"cancel":
            task.cancel()
        await asyncio.wait([task])
        if body == b"fine":
            assert task.result() == (200, b"hello")
        elif not task.cancelled():
            assert task.exception() is not None

    await asyncio.gather(*(call(number) for number in range(60)))
    results = await asyncio.gather(*(ask(http, post(upstream.url), patient) for _ in range(12)))
    assert results == [(200, b"hello")] * 12
    await until(lambda: upstream.open <= 3)
    await http.close()
    await until(lambda: upstream.open == 0)


async def test_cancelling_while_connecting_leaks_and_frees_no_slot_twice(serve, post, patient):
    running = most = 0

    async def script(exchange):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        await exchange.send(OK)

    upstream = await serve(script)
    http = HttpTransport(max_connections=1)
    for steps in range(12):
        task = asyncio.create_task(ask(http, post(upstream.url), patient))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: running == 0)
    running = most = 0
    await asyncio.gather(*(ask(http, post(upstream.url), patient) for _ in range(6)))
    assert most == 1
    async with asyncio.timeout(60):
        await http.close()
    await until(lambda: upstream.open == 0)


async def test_idle_connections_are_bounded_in_number_and_age(serve, post, patient):
    upstream = await serve(OK)
    http = HttpTransport(max_idle=2, idle_timeout_ms=200)
    await asyncio.gather(*(ask(http, post(upstream.url), patient) for _ in range(6)))
    await until(lambda: upstream.open == 2)
    await until(lambda: upstream.open == 0)
    assert await ask(http, post(upstream.url), patient) == (200, b"hello")
    await http.close()


async def test_the_most_recently_used_connection_is_used_first(http, serve, post, patient):
    upstream = await serve(OK)
    await asyncio.gather(*(ask(http, post(upstream.url), patient) for _ in range(4)))
    for _ in range(10):
        await ask(http, post(upstream.url), patient)
    assert len({exchange.connection for exchange in upstream.requests[-10:]}) == 1


async def test_closing_the_transport_breaks_the_answers_under_way(serve, post, patient):
    async def script(exchange):
        await exchange.send(b"HTTP/1.1 200 OK\r\n\r\npart")  # a body that would end with the connection
        await exchange.gone()

    upstream = await serve(script)
    http = HttpTransport()
    reply = await http.send(post(upstream.url), timeouts=patient)
    reading = asyncio.create_task(reply.read())
    await asyncio.sleep(0.01)
    await http.close()
    with pytest.raises(StreamBroken):
        await reading


async def test_closing_the_transport_ends_the_waiting_for_a_connection(serve, post, patient):
    async def script(exchange):
        await exchange.gone()

    upstream = await serve(script)
    http = HttpTransport(max_connections=1)
    calls = [asyncio.create_task(http.send(post(upstream.url), timeouts=patient)) for _ in range(3)]
    await until(lambda: upstream.requests)
    await http.close()
    await asyncio.wait(calls, timeout=60)
    errors = [call.exception() for call in calls]
    assert [(type(error), error.sent) for error in errors] == [
        (Overloaded, True),
        (Overloaded, False),
        (Overloaded, False),
    ]
    assert upstream.connections == 1


async def test_a_wait_for_a_chunk_can_be_abandoned_and_taken_up_again(http, serve, post, patient):
    go = asyncio.Event()

    async def script(exchange):
        await exchange.send(CHUNKED)
        await go.wait()
        await exchange.send(b"1\r\na\r\n0\r\n\r\n")

    upstream = await serve(script)
    reply = await http.send(post(upstream.url), timeouts=patient)
    chunks = reply.chunks()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(chunks), 0.05)
    go.set()
    assert [chunk async for chunk in chunks] == [b"a"]


async def test_the_transport_is_chosen_by_the_providers_settings():
    for settings, kind in [
        ({}, HttpTransport),
        ({"http": "2"}, LibraryTransport),
        ({"proxy": "http://p"}, LibraryTransport),
    ]:
        transport = open_transport(**settings)
        assert type(transport) is kind
        await transport.close()
