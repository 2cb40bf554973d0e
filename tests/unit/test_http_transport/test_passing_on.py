"""An answer given away where it is read: in order, stopped and taken up again, with every failure at its place."""

import asyncio

import pytest

from farthing.core.errors import StreamBroken

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def pieces(*texts: bytes) -> list[bytes]:
    return [b"%x\r\n%b\r\n" % (len(text), text) for text in texts]


async def test_no_task_is_woken_for_what_the_sink_takes(http, serve, post, patient):
    sent, seen = asyncio.Event(), asyncio.Event()

    async def script(exchange):
        await exchange.send(HEAD)
        await exchange.send(*pieces(b"a", b"b"))
        await sent.wait()
        await exchange.send(b"0\r\n\r\n")

    upstream = await serve(script)
    reply = await http.send(post(upstream.url), timeouts=patient)
    took: list[tuple[bytes, object]] = []

    def sink(chunk: bytes) -> bool:
        took.append((chunk, asyncio.current_task()))
        if b"b" in chunk:
            seen.set()
        return True

    reading = asyncio.ensure_future(reply.pass_on(sink))
    await asyncio.wait_for(seen.wait(), 5)
    assert not reading.done()
    sent.set()
    assert await reading is False
    assert b"".join(chunk for chunk, _ in took) == b"ab"
    assert took[-1][1] is not reading, "the sink is called where bytes are read, not by the consumer's task"


async def test_a_sink_that_stops_gets_nothing_more_until_it_is_asked_again(http, serve, post, patient):
    upstream = await serve(b"".join([HEAD, *pieces(b"a"), b"0\r\n\r\n"]))
    held = asyncio.Event()

    async def script(exchange):
        await exchange.send(HEAD)
        await exchange.send(*pieces(b"a", b"b", b"c"), b"0\r\n\r\n")
        held.set()

    upstream.script = script
    reply = await http.send(post(upstream.url), timeouts=patient)
    took: list[bytes] = []
    assert await reply.pass_on(lambda chunk: bool(took.append(chunk))) is True
    await asyncio.wait_for(held.wait(), 5)
    assert len(took) == 1
    assert b"".join(took) + b"".join([chunk async for chunk in reply.chunks()]) == b"abc"
    assert upstream.connections == 1


async def test_what_the_sink_raises_is_raised_at_the_consumer_and_the_connection_lives_on(http, serve, post, patient):
    go = asyncio.Event()

    async def script(exchange):
        await exchange.send(HEAD)
        await go.wait()
        await exchange.send(*pieces(b"a"), b"0\r\n\r\n")

    upstream = await serve(script)
    reply = await http.send(post(upstream.url), timeouts=patient)

    def sink(chunk: bytes) -> bool:
        raise ValueError("unreadable")

    asyncio.get_running_loop().call_later(0.02, go.set)
    with pytest.raises(ValueError, match="unreadable"):
        await reply.pass_on(sink)
    reply.close()


async def test_what_arrived_before_a_failure_is_still_given(http, serve, post, patient):
    async def script(exchange):
        await exchange.send(HEAD, *pieces(b"a"))
        exchange.writer.close()

    upstream = await serve(script)
    reply = await http.send(post(upstream.url), timeouts=patient)
    took: list[bytes] = []
    with pytest.raises(StreamBroken):
        await reply.pass_on(lambda chunk: took.append(chunk) or True)
    assert took == [b"a"]


async def test_a_sink_is_not_called_for_a_consumer_that_has_left(http, serve, post, patient):
    go = asyncio.Event()

    async def script(exchange):
        await exchange.send(HEAD)
        await go.wait()
        await exchange.send(*pieces(b"a"), b"0\r\n\r\n")

    upstream = await serve(script)
    reply = await http.send(post(upstream.url), timeouts=patient)
    took: list[bytes] = []
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reply.pass_on(lambda chunk: took.append(chunk) or True), 0.05)
    go.set()
    assert [chunk async for chunk in reply.chunks()] == [b"a"]
    assert took == []


async def test_a_chunk_is_shown_as_it_stands_on_the_wire_and_read_only_when_it_is_declined(
    http, serve, post, patient
):
    seen: asyncio.Queue[None] = asyncio.Queue()
    sent = pieces(b"a", b"b", b"c", b"d")

    async def script(exchange):
        await exchange.send(HEAD)
        for piece in sent:
            await exchange.send(piece)
            await seen.get()
        await exchange.send(b"0\r\n\r\n")

    upstream = await serve(script)
    reply = await http.send(post(upstream.url), timeouts=patient)
    shown: list[bytes] = []
    took: list[bytes] = []

    def framed(data: bytes) -> bool:
        shown.append(data)
        if data != sent[1]:
            return False
        seen.put_nowait(None)
        return True

    assert await reply.pass_on(lambda chunk: took.append(chunk) or not seen.put_nowait(None), framed) is False
    assert took == [b"a", b"c", b"d"]
    assert shown[:3] == sent[1:], "the first comes before a chunk has ended"


async def test_a_body_of_known_length_is_never_shown_as_chunks(http, serve, post, patient):
    async def script(exchange):
        if len(upstream.requests) == 1:
            await exchange.send(HEAD, *pieces(b"a"), b"0\r\n\r\n")
        else:
            await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n", *pieces(b"a"), *pieces(b"b"))

    upstream = await serve(script)
    assert await (await http.send(post(upstream.url), timeouts=patient)).read() == b"a"
    reply = await http.send(post(upstream.url), timeouts=patient)
    took: list[bytes] = []
    assert await reply.pass_on(lambda chunk: took.append(chunk) or True, lambda data: True) is False
    assert (b"".join(took), upstream.connections) == (b"".join(pieces(b"a", b"b")), 1)
