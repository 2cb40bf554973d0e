"""The same bytes, cut anywhere, mean the same as to h11: an independent HTTP/1.1 implementation."""

import asyncio
import itertools
from collections.abc import Sequence

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.http import HttpTransport
from farthing.core.errors import ProviderFailed
from farthing.ports.provider import HttpRequest, Timeouts

PATIENT = Timeouts(connect_ms=5_000, first_byte_ms=5_000, idle_ms=5_000)
Answer = tuple[int, tuple[tuple[bytes, bytes], ...], bytes] | None

SAMPLES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-Empty:\r\nX-A:  padded \t\r\n\r\nhello world",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;e=1\r\n world\r\n0\r\nx-t: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0A\r\n0123456789\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.1 204 No Content\r\nx: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nup to the end",
    b"HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: 1\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\nhello\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nhello!",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n8\r\n3\r\nabc\r\n\r\n0\r\n\r\n",
]


def reference(raw: bytes) -> Answer:
    """What h11 makes of the answer followed by the end of the connection; None: broken."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("host", "h"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    status, headers, body = 0, (), b""
    try:
        for data in (raw, b""):
            client.receive_data(data)
            while (event := client.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Response):
                    status, headers = event.status_code, tuple(event.headers)
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    return status, headers, body
                elif isinstance(event, h11.ConnectionClosed):
                    break
    except h11.RemoteProtocolError:
        return None
    return None


WAYS = ("whole", "chunks", "passed on", "framed")


def one_chunk(data: bytes) -> bytes:
    """What is in exactly one HTTP chunk; empty: it is something else."""
    line, ended, rest = data.partition(b"\r\n")
    whole = ended and line.isalnum() and rest.endswith(b"\r\n") and rest[:-2]
    return whole if whole and line.lower() == b"%x" % len(whole) else b""


async def observed(http: HttpTransport, pieces: Sequence[bytes], *, way: str) -> Answer:
    """What the transport makes of it, taken in one of the ways; every piece is written by itself."""

    ended = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                if writer.is_closing():  # the client has seen enough
                    break
                writer.write(piece)
                for _ in range(3):
                    await asyncio.sleep(0)
        finally:
            writer.close()
            ended.set()

    server = await asyncio.start_server(script, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        reply = await http.send(HttpRequest(method="POST", url=url, headers=()), timeouts=PATIENT)
        if way == "whole":
            parts = [await reply.read()]
        elif way == "chunks":
            parts = [chunk async for chunk in reply.chunks()]
        else:
            parts = []
            framed = (
                (lambda data: bool(one_chunk(data) and not parts.append(one_chunk(data))))
                if way == "framed"
                else None
            )
            while await reply.pass_on(lambda chunk: parts.append(chunk) or len(parts) % 3 > 0, framed):
                pass
        assert way == "whole" or b"" not in parts
        return reply.status, reply.headers, b"".join(parts)
    except ProviderFailed:
        return None
    finally:
        await ended.wait()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("raw", SAMPLES)
async def test_an_answer_cut_at_any_byte_means_what_h11_reads(http, raw):
    expected = reference(raw)
    for cut in range(len(raw)):
        got = await observed(http, (raw[:cut], raw[cut:]) if cut else (raw,), way=WAYS[cut % 4])
        assert got == expected, f"cut at {cut}"


@pytest.mark.parametrize("raw", SAMPLES)
async def test_an_answer_that_comes_byte_by_byte_means_what_h11_reads(http, raw):
    pieces = [raw[index : index + 1] for index in range(len(raw))]
    for way in WAYS:
        assert await observed(http, pieces, way=way) == reference(raw)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (CHUNKED + b"2\r\nab\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n"),
        (CHUNKED + b"2\r\nab\r\n8\r\n", b"3\r\nabc\r\n", b"\r\n0\r\n\r\n"),
        (CHUNKED + b"2\r\nab\r\n9\r\n.", b"3\r\nabc\r\n", b"\r\n0\r\n\r\n"),
        (CHUNKED + b"2\r\nab\r\n1", b"3\r\nabc\r\n", b"0123456789abcd\r\n0\r\n\r\n"),
        (CHUNKED + b"2\r\nab", b"3\r\nabc\r\n", b"0\r\n\r\n"),
        (CHUNKED + b"2\r\nab\r\n0\r\n", b"3\r\nabc\r\n", b"\r\n"),
    ],
)
async def test_what_looks_like_a_chunk_is_one_only_between_two_others(http, pieces):
    assert await observed(http, pieces, way="framed") == reference(b"".join(pieces))


TOKENS = st.text("abcdefgh-", min_size=1, max_size=8).map(lambda text: b"x" + text.encode())
VALUES = st.binary(max_size=20).map(lambda raw: bytes(byte for byte in raw if 32 < byte < 127))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Answers of every framing, whole or truncated."""
    headers = draw(st.lists(st.tuples(TOKENS, VALUES), max_size=5))
    parts = draw(st.lists(st.binary(min_size=1, max_size=300), max_size=6))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    status = draw(st.sampled_from([200, 201, 400, 429, 500, 529]))
    body = b"".join(parts)
    if framing == "length":
        headers.append((b"Content-Length", b"%d" % len(body)))
    elif framing == "chunked":
        headers.append((b"Transfer-Encoding", b"chunked"))
        trailer = draw(st.sampled_from([b"", b"x-trailer: 1\r\n"]))
        body = b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailer + b"\r\n"
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    raw = interim + b"HTTP/1.1 %d Reason\r\n%b\r\n" % (status, lines) + body
    return raw[: draw(st.integers(1, len(raw)))] if draw(st.booleans()) else raw


@settings(max_examples=150, deadline=None)
@given(raw=answers(), cuts=st.lists(st.integers(0, 2_000), max_size=6), way=st.sampled_from(WAYS))
def test_any_answer_cut_anywhere_means_what_h11_reads(raw, cuts, way):
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    pieces = [raw[start:end] for start, end in itertools.pairwise(edges)]

    async def once() -> Answer:
        http = HttpTransport()
        try:
            return await observed(http, pieces, way=way)
        finally:
            await http.close()

    with asyncio.Runner() as runner:
        assert runner.run(once()) == reference(raw)
