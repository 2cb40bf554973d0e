"""The gateway's own side of a connection: pipelining, old protocols, broken heads, bodies that are too large."""

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from farthing.sim.server import SimServer
from farthing.testing.gateway import GatewayServer, simulated_providers

BODY = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}).encode()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    with (
        SimServer() as sim,
        GatewayServer(tmp_path_factory.mktemp("connections"), simulated_providers(sim.url)) as made,
    ):
        yield made


def post(body: bytes = BODY, *, extra: str = "", version: str = "1.1") -> bytes:
    head = f"POST /v1/chat/completions HTTP/{version}\r\nhost: x\r\n{extra}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def raw(gateway: GatewayServer, data: bytes, *, end: bool = False, count: int = 0) -> bytes:
    """Everything the gateway answers until it closes, or until ``count`` answers and a moment after them."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as connection:
        connection.sendall(data)
        if end:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
                if count and whole(found) >= count:
                    connection.settimeout(0.1)
        except TimeoutError:
            assert count
            assert whole(found) >= count, "no answer within a minute"
        except ConnectionResetError:
            pass
        return found


def whole(data: bytes) -> int:
    """How many whole answers with a content-length are in ``data``."""
    number = 0
    while (end := data.find(b"\r\n\r\n")) >= 0:
        size = int(data[:end].lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(data) < end + 4 + size:
            break
        number, data = number + 1, data[end + 4 + size :]
    return number


def answers(data: bytes) -> list[tuple[int, bytes]]:
    """(status, body) of every answer with a content-length."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        size = int(fields[b"content-length"])
        found.append((int(head.split()[1]), rest[:size]))
        data = rest[size:]
    return found


def test_pipelined_requests_are_answered_one_after_the_other(gateway):
    before = len(gateway.books.entries())
    bodies = [BODY.replace(b"Hi", word) for word in (b"one", b"two", b"three")]
    found = answers(raw(gateway, b"".join(post(body, extra="x-sim-fault: slow:50\r\n") for body in bodies), count=3))
    assert [status for status, _ in found] == [200, 200, 200]
    assert len({json.loads(body)["id"] for _, body in found}) == 3
    assert len(gateway.books.settled(before + 3)) == before + 3
    assert gateway.quiet()


def test_an_error_among_pipelined_requests_answers_its_own_request(gateway):
    found = answers(raw(gateway, post(extra="x-sim-fault: slow:50\r\n") + post(b"{") + post(), count=3))
    assert [status for status, _ in found] == [200, 400, 200]


def test_a_pipelined_caller_that_hangs_up_is_seen(gateway):
    before = len(gateway.books.entries())
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(post(extra="x-sim-fault: slow:200\r\n") * 2)
    assert all(entry.client_gone for entry in gateway.books.settled(before + 1)[before:])
    assert gateway.quiet()


def test_http_1_0_gets_a_whole_answer_and_a_closed_connection(gateway):
    found = raw(gateway, post(version="1.0"))
    assert found.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in found.lower()
    assert answers(found)[0][0] == 200


def test_a_stream_over_http_1_0_comes_whole_because_1_0_knows_no_chunks(gateway):
    body = BODY.replace(b'"max_tokens"', b'"stream": true, "max_tokens"')
    found = raw(gateway, post(body, version="1.0"))
    assert b"transfer-encoding" not in found.lower()
    status, events = answers(found)[0]
    assert status == 200
    assert events.startswith(b"data: {")
    assert events.endswith(b"\n\ndata: [DONE]\n\n")
    assert gateway.quiet()


def test_a_kept_alive_connection_serves_many(gateway):
    with httpx.Client(timeout=60) as client:
        for _ in range(5):
            assert client.post(f"{gateway.url}/v1/chat/completions", content=BODY).status_code == 200
        assert client.get(f"{gateway.url}/healthz").status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-farthing-team: a\x00b\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx y: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -2\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * 70_000 + b"\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + b"x-a: 1\r\n" * 200 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
    ],
    ids=[
        "NUL in a header", "space in a name", "negative length", "two lengths", "bad chunk", "huge header",
        "too many headers", "TLS", "nonsense",
    ],
)  # fmt: skip
def test_a_broken_head_is_a_400_and_a_closed_connection(gateway, head):
    found = raw(gateway, head, end=True)
    assert found.startswith(b"HTTP/1.1 400")
    assert b"connection: close" in found
    assert gateway.quiet()


def test_a_header_value_cannot_start_another_header(gateway):
    before = len(gateway.books.entries())
    raw(gateway, post(extra="x-farthing-team: a\r\nx-injected: b\r\n", version="1.1"), count=1)
    entry = gateway.books.settled(before + 1)[-1]
    assert entry.scope.team == "a"


def test_a_chunked_body_is_a_body(gateway):
    half = len(BODY) // 2
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:half], BODY[half:]))
    assert answers(raw(gateway, head + chunks + b"0\r\n\r\n", count=1))[0][0] == 200


def test_a_body_that_never_ends_costs_nothing(gateway):
    before = len(gateway.books.entries())
    found = raw(gateway, post()[:-10], end=True)
    assert not found or found.startswith(b"HTTP/1.1 400")
    assert len(gateway.books.entries()) == before
    assert gateway.quiet()


@pytest.mark.parametrize(("path", "kind"), [("/v1/chat/completions", "openai"), ("/v1/messages", "anthropic")])
def test_a_body_of_30_megabytes_is_refused_and_the_client_can_read_why(gateway, path, kind):
    content = b'{"model":"gpt-4o","messages":[{"role":"user","content":"' + b"a" * 30_000_000 + b'"}]}'
    answer = httpx.post(gateway.url + path, content=content, timeout=60)
    assert answer.status_code == 413
    assert answer.headers["x-farthing-error"] == "request_too_large"
    assert answer.headers["connection"] == "close"
    error = answer.json()["error"]
    assert error["code"] == "request_too_large"
    assert "20,971,520" in error["message"]
    assert "body_bytes_max" in error["message"]
    assert error["type"] == ("request_too_large" if kind == "anthropic" else "invalid_request_error")


def test_a_compressed_body_is_refused_with_the_fix(gateway):
    answer = httpx.post(
        f"{gateway.url}/v1/chat/completions", content=b"x", headers={"content-encoding": "gzip"}, timeout=60
    )
    assert answer.status_code == 400
    assert "compressed (gzip)" in answer.json()["error"]["message"]
    assert "without Content-Encoding" in answer.json()["error"]["message"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_on_a_metered_path_are_told_to_post(gateway, method):
    answer = httpx.request(method, f"{gateway.url}/v1/chat/completions", timeout=60)
    assert answer.status_code == 404
    assert answer.headers["x-farthing-error"] == "not_found"
    if method != "HEAD":
        assert "Use POST" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/nothing", "/v2/chat/completions", "/chat/completions", "/v1/messages/", "//"])
def test_an_unknown_path_is_a_404_that_names_it(gateway, path):
    answer = httpx.post(gateway.url + path, content=b"{}", timeout=60)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert path in answer.json()["error"]["message"]
    assert "base_url" in answer.json()["error"]["message"]
