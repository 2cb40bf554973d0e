"""A caller that reads more slowly than its provider sends gets every byte, in order, and is booked like any other."""

import json
import socket
import threading
import time

from farthing.testing.gateway import GatewayServer, simulated_providers

EVENTS = 3_000
TEXT = "x" * 4_000
"""Twelve megabytes: more than the buffers of both sockets and of the gateway hold."""

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ASK = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


def event(number: int) -> bytes:
    delta = {"choices": [{"index": 0, "delta": {"content": f"{number}:{TEXT}"}, "finish_reason": None}]}
    return b"data: " + json.dumps(delta).encode() + b"\n\n"


def answer() -> list[bytes]:
    usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 30, "total_tokens": 39}}
    return [*map(event, range(EVENTS)), b"data: " + json.dumps(usage).encode() + b"\n\n", b"data: [DONE]\n\n"]


def provide(listener: socket.socket) -> None:
    """One streamed answer, as fast as it is taken."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(65_536)
        connection.sendall(HEAD)
        for one in answer():
            connection.sendall(b"%x\r\n%b\r\n" % (len(one), one))
        connection.sendall(b"0\r\n\r\n")


def slowly(port: int, body: bytes) -> bytes:
    """The answer's body as a caller sees it that stops reading for a while, and then reads bit by bit."""
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        caller.connect(("127.0.0.1", port))
        caller.sendall(ASK % len(body) + body)
        time.sleep(0.3)
        caller.settimeout(30)
        data = b""
        parts = []
        while not data.endswith(b"\r\n0\r\n\r\n"):
            part = caller.recv(65_536)
            assert part, "the answer was cut"
            parts.append(part)
            data = (data + part)[-16:]
    rest = b"".join(parts).partition(b"\r\n\r\n")[2]
    found = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return b"".join(found)


def test_a_caller_that_lags_gets_every_byte_in_order(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=provide, args=(listener,), daemon=True).start()
        toml = simulated_providers(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with GatewayServer(tmp_path, toml) as gateway:
            body = {
                "model": "gpt-4o-mini",
                "stream": True,
                "stream_options": {"include_usage": True},
                "messages": [{"role": "user", "content": "hi"}],
            }
            assert slowly(gateway.port, json.dumps(body).encode()) == b"".join(answer())
            (entry,) = gateway.books.settled(1)
    assert (entry.usage.source, entry.usage.parts[0].lines) == ("reported", (("input", 9), ("output", 30)))
