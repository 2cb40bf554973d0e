"""Requests whose head came before: they are served as if they had been parsed."""

import asyncio

import httptools
import msgspec
import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from farthing.server.head_bytes import HeadBytes
from farthing.server.protocol import GatewayProtocol

PATHS = (b"/v1/a", b"/v1/b")
NAMES = (b"host: h", b"Host: h", b"X: content-length: 9", b"content-length: 1", b"transfer-encoding: chunked")
LENGTHS = (b"content-length: %d", b"Content-Length:%d", b"CONTENT-LENGTH:  %d", b"content-length: 0%d")
BODIES = (b"", b"{}", b"x" * 11, b"a\r\n\r\nb", b"\r\ncontent-length: 2\r\n\r\nzz", b"POST /v1/a HTTP/1.1\r\n\r\n")
TAILS = (b"", b"", b"", b"\r\n", b"POST", b"\n")
ENDS = (b"\r\n", b"\r\n", b"\r\n", b"\n")
REQUEST = st.tuples(
    st.sampled_from(PATHS), st.lists(st.sampled_from(NAMES), max_size=2), st.sampled_from(LENGTHS),
    st.sampled_from(BODIES), st.sampled_from((0, 0, 0, 1, -1)), st.sampled_from(TAILS), st.sampled_from(ENDS),
)  # fmt: skip


def written(path, names, length, body, off, tail, end):
    """The bytes of a request that may say a wrong length, or be followed by something."""
    lines = [b"POST " + path + b" HTTP/1.1", *names, length % max(0, len(body) + off), b"", b""]
    return end.join(lines) + body + tail


class Parsed:
    """What the parser makes of a piece of data."""

    def __init__(self, data):
        self.url, self.headers, self.body, self.begun, self.ended, self.failed = b"", [], b"", 0, 0, False
        try:
            httptools.HttpRequestParser(self).feed_data(data)
        except httptools.HttpParserError:
            self.failed = True

    def on_message_begin(self):
        self.begun += 1

    def on_url(self, url):
        self.url += url

    def on_header(self, name, value):
        if name.lower() != b"content-length":
            self.headers.append((name, value))

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.ended += 1

    @property
    def alone(self):
        """One whole request and nothing else."""
        return not self.failed and self.begun == self.ended == 1

    @property
    def said(self):
        return self.alone, self.url, self.headers, self.body


@settings(max_examples=400, deadline=None)
@given(first=REQUEST, second=REQUEST, alike=st.booleans())
@example(
    first=(b"/v1/a", [], LENGTHS[0], b"{}", 0, b"", b"\r\n"), second=(b"/", [], b"", b"[1]", 0, b"", b""), alike=True
)
def test_a_head_that_is_known_by_its_bytes_is_what_the_parser_makes_of_it(first, second, alike):
    one = written(*first)
    two = written(*first[:3], *second[3:6], first[6]) if alike else written(*second)
    parsed = Parsed(one)
    if not parsed.alone:
        return
    known = HeadBytes.of(one, len(parsed.body))
    if known is None:
        return
    assert known.body_of(one) == parsed.body
    body = known.body_of(two)
    if body is not None:
        assert (True, parsed.url, parsed.headers, body) == Parsed(two).said


def test_the_heads_of_a_usual_client_are_known_again():
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nAccept: */*\r\n\r\n%b"
    known = HeadBytes.of(head % (2, b"{}"), 2)
    assert known.body_of(head % (1000, b"x" * 1000)) == b"x" * 1000
    assert known.body_of(head % (1000, b"x" * 999)) is None  # the rest is still to come
    assert known.body_of(head % (10, b"x" * 11)) is None
    assert known.body_of((head % (1, b"x")).replace(b"*/*", b"*/1")) is None


class Echo:
    """Answers a metered call with what it was taken for; everything else with nothing."""

    def __init__(self):
        self.body_bytes_max = 1000
        self.routes = {b"/v1/a": ("openai", "chat"), b"/v1/b": ("openai", "embeddings")}

    @property
    def direct(self):
        return self

    async def serve(self, route, head, body, reply):
        headers = [(name.decode(), value.decode()) for name, value in head.listed]
        await reply.whole(200, [], msgspec.json.encode((route, headers, body().decode())))

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def test_a_connection_that_repeats_its_head_gets_the_answers_of_each_request():
    config = uvicorn.Config(Echo(), http=GatewayProtocol, log_level="critical", lifespan="off", interface="asgi3")
    config.load()
    config.loaded_app = Echo()
    loop = asyncio.get_running_loop()
    state = ServerState()
    server = await loop.create_server(lambda: GatewayProtocol(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    places = ("/v1/a", "/v1/a", "/v1/a", "/v1/b", "/v1/a", "/other", "/v1/a", "/v1/a", "/v1/a", "/v1/a")
    for turn, path in enumerate(places):
        team, body = "one" if turn < 7 else "two", "b" * (turn * 30)
        head = f"POST {path} HTTP/1.1\r\nhost: h\r\nx-farthing-team: {team}\r\ncontent-length: {len(body)}\r\n\r\n"
        data = (head + body).encode()
        half = len(data) // 2 if turn % 4 == 2 else len(data)  # some come in two pieces
        writer.write(data[:half])
        await asyncio.sleep(0.01 if half < len(data) else 0)
        writer.write(data[half:])
        answered = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        size = next(int(line[16:]) for line in answered if line.startswith(b"content-length:"))
        found = await reader.readexactly(size)
        if path == "/other":
            assert found == b""
            continue
        endpoint = "chat" if path == "/v1/a" else "embeddings"
        headers = [["host", "h"], ["x-farthing-team", team]]
        assert msgspec.json.decode(found) == [["openai", endpoint], headers, body]
    assert state.total_requests == len(places)
    writer.close()
    server.close()
