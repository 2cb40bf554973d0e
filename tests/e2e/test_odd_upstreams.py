"""Providers that answer in odd ways: the caller gets what they meant, the books what it cost, and nothing is lost."""

import datetime
import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import httpx
import openai
import pytest

from farthing.testing.gateway import GatewayServer

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
CHAT = {"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini"}
WHOLE = json.dumps(
    {
        **CHAT,
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello there"}}
        ],
        "usage": USAGE,
    }
).encode()
ASK = {"model": "gpt-4o-mini", "max_tokens": 50, "messages": [{"role": "user", "content": "Harbours?"}]}


def chunk(content: str | None, **more: Any) -> bytes:
    delta = {"content": content} if content is not None else {}
    choice = {"index": 0, "delta": delta, "finish_reason": None if content is not None else "stop"}
    return json.dumps({**CHAT, "object": "chat.completion.chunk", "choices": [choice], **more}).encode()


EVENTS = (
    chunk("Hello"),
    chunk(" there"),
    chunk(None),
    json.dumps({**CHAT, "choices": [], "usage": USAGE}).encode(),
    b"[DONE]",
)
STREAM = b"".join(b"data: " + event + b"\n\n" for event in EVENTS)


def answer(body: bytes, *headers: str, status: int = 200, kind: str = "application/json") -> bytes:
    head = [f"HTTP/1.1 {status} So", f"content-length: {len(body)}", "connection: close", *headers]
    if kind:
        head.append(f"content-type: {kind}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Upstream:
    """Answers each request with the next of ``answers``, the last one for ever; bytes as they are."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.times: list[float] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._read(connection)
                self.times.append(time.monotonic())
                connection.sendall(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])

    def _read(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields[b"content-length"]):
            body += connection.recv(65536)


class Desk:
    def __init__(self, upstream: Upstream, gateway: GatewayServer, http: httpx.Client) -> None:
        self.upstream = upstream
        self.gateway = gateway
        self.http = http

    def post(self, *answers: bytes, stream: bool = False) -> httpx.Response:
        self.upstream.answers = list(answers)
        self.upstream.times.clear()
        return self.http.post(f"{self.gateway.url}/v1/chat/completions", json={**ASK, "stream": stream})

    def said(self, *answers: bytes) -> str:
        """What the official client makes of a streamed answer."""
        self.upstream.answers = list(answers)
        client = openai.OpenAI(base_url=f"{self.gateway.url}/v1", api_key="x", max_retries=0)
        with client, client.chat.completions.create(**ASK, stream=True) as chunks:  # type: ignore[call-overload]
            return "".join(choice.delta.content or "" for part in chunks for choice in part.choices)

    def entry(self, reply: httpx.Response) -> Any:
        (entry,) = self.gateway.books.entries(reply.headers["x-farthing-request-id"])
        return entry

    def last(self) -> Any:
        return self.gateway.books.entries()[-1]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, http: httpx.Client) -> Iterator[Desk]:
    upstream = Upstream()
    toml = (
        '[retries]\nattempts_max = 2\nbackoff = "1ms"\nbackoff_max = "5s"\n[[budgets]]\nname = "all"\nper = "day"\n'
        f'usd = "10"\n[[providers]]\nname = "openai"\nbase_url = "{upstream.url}/v1"\napi_key_env = "SIM_KEY"\n'
    )
    with GatewayServer(tmp_path_factory.mktemp("odd"), toml) as gateway:
        yield Desk(upstream, gateway, http)
        assert gateway.quiet()
    upstream.close()


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(WHOLE)),
        ("GZIP", gzip.compress(WHOLE[:40]) + gzip.compress(WHOLE[40:])),
        ("deflate", zlib.compress(WHOLE)),
    ],
)
def test_an_answer_that_comes_compressed_is_unpacked_and_metered(desk, coding, packed):
    reply = desk.post(answer(packed, f"content-encoding: {coding}"))
    assert reply.content == WHOLE
    assert "content-encoding" not in reply.headers
    entry = desk.entry(reply)
    assert (entry.usage.source, dict(entry.usage.parts[0].lines)) == ("reported", {"input": 10, "output": 5})


def test_a_stream_that_comes_compressed_is_unpacked_event_by_event(desk):
    packer = zlib.compressobj(wbits=31)
    packed = b"".join(
        packer.compress(part + b"\n\n") + packer.flush(zlib.Z_SYNC_FLUSH) for part in STREAM.split(b"\n\n")
    )
    packed += packer.flush()
    assert desk.said(answer(packed, "content-encoding: gzip", kind="text/event-stream")) == "Hello there"
    assert desk.last().fidelity == "exact"


def test_an_encoding_that_nobody_here_knows_reaches_the_caller_with_its_name(desk):
    reply = desk.http.build_request("POST", f"{desk.gateway.url}/v1/chat/completions", json=ASK)
    desk.upstream.answers = [answer(b"\x0b\x02\x80hello\x03", "content-encoding: br")]
    got = desk.http.send(reply, stream=True)
    assert (got.headers["content-encoding"], b"".join(got.iter_raw())) == ("br", b"\x0b\x02\x80hello\x03")


@pytest.mark.parametrize("packed", [b"\x1f\x8b\x08\x00garbage!", gzip.compress(WHOLE)[:-12]])
def test_a_compressed_answer_that_is_broken_is_a_502_and_booked(desk, packed):
    reply = desk.post(answer(packed, "content-encoding: gzip"))
    assert (reply.status_code, reply.headers["x-farthing-error"]) == (502, "provider_stream_broken")
    assert desk.entry(reply).fidelity == "unknown"


@pytest.mark.parametrize("kind", ["Text/Event-Stream; charset=UTF-8", ""])
def test_a_stream_is_one_whatever_its_content_type_says(desk, kind):
    reply = desk.post(answer(STREAM, kind=kind), stream=True)
    assert b"Hello" in reply.content
    assert "x-farthing-cost-usd" not in reply.headers  # headers went before the answer was complete
    assert desk.entry(reply).fidelity == "exact"


@pytest.mark.parametrize("kind", ["text/event-stream", ""])
def test_an_answer_without_content_leaves_the_connection_to_the_next_call(desk, kind):
    nothing = answer(b"", status=204, kind=kind).replace(b"content-length: 0\r\n", b"")
    assert desk.post(nothing, stream=True).status_code == 204
    assert desk.post(answer(WHOLE)).content == WHOLE


@pytest.mark.parametrize("ends", [("\n", "\r\n"), ("\r\n", "\n"), ("\r", "\r\n"), ("\r\n", "\r\n")])
def test_lines_may_end_in_any_way_and_change_it(desk, ends):
    blank = "".join(ends).encode()
    body = b"".join(b"data: " + event + blank for event in EVENTS)
    assert desk.said(answer(body, kind="text/event-stream")) == "Hello there"
    assert desk.last().fidelity == "exact"


def test_a_date_in_retry_after_is_waited_for(desk):
    busy = answer(b"{}", f"retry-after: {formatdate(time.time() + 2, usegmt=True)}", status=429)
    assert desk.post(busy, answer(WHOLE)).status_code == 200
    first, second = desk.upstream.times
    assert second - first > 0.9


@pytest.mark.parametrize("wait", ["inf", "nan", "1e400", "soon", "Sat, 99 Nov 2026 99:00:00 GMT"])
def test_nonsense_in_retry_after_is_no_wait(desk, wait):
    assert desk.post(answer(b"{}", f"retry-after: {wait}", status=503), answer(WHOLE)).status_code == 200


def test_an_error_whose_words_are_lost_is_still_that_error(desk):
    cut = answer(b"<html>", status=502, kind="text/html").replace(b"length: 6", b"length: 600")
    assert desk.post(cut, answer(WHOLE)).status_code == 200
    reply = desk.post(cut)
    assert (reply.status_code, reply.headers["x-farthing-error"]) == (502, "provider_overloaded")
    assert desk.gateway.books.entries(reply.headers["x-farthing-request-id"]) == []


@pytest.mark.parametrize(
    "usage", [{"total_tokens": 12}, {"prompt_tokens": -5, "completion_tokens": "many"}, {"x": 1}]
)
def test_what_a_usage_leaves_unsaid_is_counted_and_never_zero(desk, usage):
    body = json.dumps({**json.loads(WHOLE), "usage": usage}).encode()
    entry = desk.entry(desk.post(answer(body)))
    lines = dict(entry.usage.parts[0].lines)
    assert (entry.fidelity, entry.usage.source) == ("estimated", "estimated")
    assert lines["input"] > 0
    assert lines["output"] > 0


def test_an_answer_of_a_model_without_a_price_still_counts_on_budgets(desk):
    """The call had a price, its answer has none: it was paid for, so it counts at the ceiling rates."""

    async def booked() -> int:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        return sum(one.posted for one in desk.gateway.installation.books.balances([("all", today)]))

    before = desk.gateway.run(booked())
    entry = desk.entry(desk.post(answer(json.dumps({**json.loads(WHOLE), "model": "somebody-else"}).encode())))
    assert (entry.charge.total, entry.charge.reason) == (None, "unknown_model")
    assert desk.gateway.run(booked()) - before == 10 * 20_000 + 5 * 100_000
