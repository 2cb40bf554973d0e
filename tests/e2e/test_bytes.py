"""What the caller sent is what the provider gets, what the provider said is what the caller gets, at once."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from farthing.testing.gateway import GatewayServer

ANSWER = (
    b'{ "id":"x","model":"gpt-4o-2024-08-06", "tomorrow" : {"a":[1.50,1e2,null,"\\u00fc"]},"choices":[],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"new_tokens":{"x":1}} }\n'
)
EVENTS = (
    b": hello\n\n",
    b'data: {"id":"x","model":"gpt-4o","choices":[{"index":0,"delta":{"content":"event: message_stop"}}],"n":1}\n\n',
    b'data: {"id":"x","model":"gpt-4o","choices":[{"index":0,"delta":{"content":"data: [DONE]"}}]}\n\n',
    b'data: {"id":"x","model":"gpt-4o","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n',
    b"data: [DONE]\n\n",
)


class Upstream:
    """A provider that keeps the raw bytes of every request, answers with fixed bytes, and waits when told to."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.go_on.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    @property
    def head(self) -> dict[str, str]:
        lines = self.requests[-1].partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return dict(line.split(": ", 1) for line in lines)

    @property
    def body(self) -> bytes:
        return self.requests[-1].partition(b"\r\n\r\n")[2]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields[b"content-length"]):
            body += connection.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        if json.loads(body).get("moved"):
            connection.sendall(
                b"HTTP/1.1 308 Moved\r\nlocation: /v2\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
        elif json.loads(body).get("stream"):
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
            for event in EVENTS:
                connection.sendall(event)
                if b"[DONE]" in event and b"choices" in event:
                    self.go_on.wait(10)
        else:
            head = f"content-length: {len(ANSWER)}\r\nx-tomorrow: yes\r\nset-cookie: a=b\r\nx-farthing-cost-usd: 0"
            connection.sendall(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
                + head.encode()
                + b"\r\n\r\n"
                + ANSWER
            )


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    toml = f'[[providers]]\nname = "openai"\nbase_url = "{upstream.url}/v1"\napi_key_env = "SIM_KEY"\n'
    with GatewayServer(tmp_path_factory.mktemp("bytes"), toml) as made:
        yield made


ODD = b'\n{"model" : "gpt-4o","messages":[{"role":"user","content":"\\u00fc \xc3\xbc"}],"x":1.0,"y":1e2 , "z":{}}\n'


def test_a_request_that_nothing_touches_reaches_the_provider_byte_for_byte(gateway, upstream):
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", content=ODD, headers={"x-mine": "1"}, timeout=60)
    assert upstream.body == ODD
    assert upstream.head["x-mine"] == "1"
    assert answer.content == ANSWER
    exchange = gateway.books.exchange(answer.headers["x-farthing-request-id"])
    assert exchange.sent_digest == exchange.received_digest


def test_asking_for_stream_usage_changes_nothing_else_in_the_body(gateway, upstream):
    body = ODD.replace(b'"x":1.0', b'"stream" :true')
    httpx.post(f"{gateway.url}/v1/chat/completions", content=body, timeout=60)
    assert upstream.body.replace(b'"stream_options":{"include_usage":true},', b"") == body


def test_the_callers_credentials_and_connection_headers_stay_here(gateway, upstream):
    headers = {
        "authorization": "Bearer sk-callers-own",
        "x-api-key": "sk-callers-own",
        "cookie": "a=b",
        "x-farthing-team": "search",
        "accept-encoding": "gzip",
        "x-forwarded-for": "10.1.2.3",
    }
    httpx.post(f"{gateway.url}/v1/chat/completions", content=ODD, headers=headers, timeout=60)
    sent = upstream.requests[-1].lower()
    assert upstream.head["authorization"] == "Bearer sk-sim"
    for word in (b"sk-callers-own", b"cookie", b"x-farthing", b"gzip", b"10.1.2.3", b"x-api-key"):
        assert word not in sent, word


def test_the_providers_headers_reach_the_caller_without_cookies_or_forged_costs(gateway):
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", content=ODD, timeout=60)
    assert answer.headers["x-tomorrow"] == "yes"
    assert "set-cookie" not in answer.headers
    assert answer.headers["x-farthing-cost-usd"] == "0.000027500"


def test_events_reach_the_caller_while_the_provider_still_speaks(gateway, upstream):
    upstream.go_on.clear()
    body = {"model": "gpt-4o", "messages": [], "stream": True}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=60) as answer:
        parts = answer.iter_raw()
        early = b""
        while b"[DONE]" not in early:  # the text that looks like an end: the provider waits after it
            early += next(parts)
        assert early == b"".join(EVENTS[:3])
        upstream.go_on.set()
        rest = b"".join(parts)
    assert rest == EVENTS[3] + EVENTS[5]


def test_the_end_of_a_stream_waits_until_the_books_have_the_call(gateway):
    body = {"model": "gpt-4o", "messages": [], "stream": True}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=60) as answer:
        for part in answer.iter_raw():
            if EVENTS[5] in part:
                entries = gateway.books.entries(answer.headers["x-farthing-request-id"])
                assert [entry.charge.total for entry in entries] == [27_500]
                return
    raise AssertionError("no end")


def test_a_redirect_is_no_answer_and_costs_nothing(gateway):
    answer = httpx.post(
        f"{gateway.url}/v1/chat/completions", json={"model": "m", "messages": [], "moved": True}, timeout=60
    )
    assert answer.status_code == 502
    assert answer.headers["x-farthing-error"] == "provider_failed"
    assert "openai answered 308. Farthing follows no redirect ('/v2'): set the" in answer.json()["error"]["message"]
    assert gateway.books.entries(answer.headers["x-farthing-request-id"]) == []
    assert gateway.quiet()


def pass_through(url: str, home: Path) -> GatewayServer:
    toml = f'[[providers]]\nname = "office"\nbase_url = "{url}/v1"\n'
    return GatewayServer(home, toml)


def test_without_a_configured_key_the_callers_own_goes_to_the_provider(upstream, tmp_path):
    with pass_through(upstream.url, tmp_path) as gateway:
        httpx.post(
            f"{gateway.url}/v1/chat/completions", content=ODD, headers={"authorization": "Bearer mine"}, timeout=60
        )
    assert upstream.head["authorization"] == "Bearer mine"
