"""A stream whose HTTP chunks are passed on without being parsed: nobody can tell, and the books say the same."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from farthing.testing.gateway import GatewayServer

PAUSE_S = 0.002
"""Long enough for a piece to be read by itself nearly always; that it is decides nothing."""
WORDS = ["Three", " direct", ' "trains"', "", " still\n", " run", " ünder", " way", " today", " at", " 14:04"] * 2


def event(content: str | None, **more: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": None if content is not None else "stop"}
    body = {"id": "c", "model": "gpt-4o-mini", "choices": [choice], "usage": None, **more}
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


USAGE = {"prompt_tokens": 9, "completion_tokens": 30, "total_tokens": 39}
TEXT = [event(word) for word in WORDS]
EVENTS = [*TEXT, event(None), event(None, choices=[], usage=USAGE), b"data: [DONE]\n\n"]


def said(events: list[bytes], *, with_usage: bool) -> bytes:
    """What a caller gets of them."""
    if with_usage:
        return b"".join(events)
    return b"".join(one.replace(b',"usage":null', b"") for one in events if b"total_tokens" not in one)


def provide(connection: socket.socket) -> None:
    """Streams in the way that the request's ``user`` names, until the caller of the connection is gone."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        while asked := connection.recv(65_536):
            way, _, end = json.loads(asked.partition(b"\r\n\r\n")[2]).get("user", "alone").partition(" ")
            events = TEXT if end else EVENTS
            data = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in events)
            ahead = 1 if way == "alone" else 7
            edges = [0, *(at + ahead for at, _ in enumerate(data) if data.endswith(b"\n\n\r\n", 0, at + 1))]
            connection.sendall(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            for start, stop in zip(edges, [*edges[1:], len(data)], strict=True):
                time.sleep(PAUSE_S)
                connection.sendall(data[start:stop])
            if end:
                return
            connection.sendall(b"0\r\n\r\n")


def serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=provide, args=(connection,), daemon=True).start()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        provider = f'[[providers]]\nname = "openai"\nbase_url = "{url}"\napi_key_env = "SIM_KEY"\n'
        toml = provider + '[exchange_log]\ntext = "full"\n'
        with GatewayServer(tmp_path_factory.mktemp("chunks"), toml) as made:
            yield made


def ask(gateway: GatewayServer, user: str, *, with_usage: bool) -> tuple[bytes, Any, Any]:
    """(what came, the entry, the exchange)."""
    body = {"model": "gpt-4o-mini", "user": user, "messages": [{"role": "user", "content": "When?"}], "stream": True}
    if with_usage:
        body["stream_options"] = {"include_usage": True}
    got: list[bytes] = []
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=60) as answer:
        try:
            got.extend(answer.iter_raw())
        except httpx.RemoteProtocolError:
            assert user.endswith("cut")
    request = answer.headers["x-farthing-request-id"]
    (entry,) = gateway.books.entries(request)
    return b"".join(got), entry, gateway.books.exchange(request)


@pytest.mark.parametrize("with_usage", [False, True])
def test_chunks_that_come_alone_or_cut_give_the_same_answer_entry_and_log(gateway, with_usage):
    alone = ask(gateway, "alone", with_usage=with_usage)
    cut = ask(gateway, "shifted", with_usage=with_usage)
    assert alone[0] == cut[0] == said(EVENTS, with_usage=with_usage)
    assert alone[1].usage == cut[1].usage
    assert (alone[1].usage.source, alone[1].usage.parts[0].lines) == ("reported", (("input", 9), ("output", 30)))
    assert alone[2].answer == cut[2].answer == b"".join(EVENTS)


def test_a_stream_that_breaks_off_is_estimated_from_the_same_text(gateway):
    alone = ask(gateway, "alone cut", with_usage=False)
    cut = ask(gateway, "shifted cut", with_usage=False)
    assert alone[0] == cut[0] == said(TEXT, with_usage=False)
    for usage in (alone[1].usage, cut[1].usage):
        assert (usage.source, usage.model, usage.upstream_id) == ("partial", "gpt-4o-mini", "c")
        assert dict(usage.parts[0].lines)["output"] == -(-len("".join(WORDS).encode()) // 4)
    assert alone[2].answer == cut[2].answer == b"".join(TEXT)


def test_what_is_translated_is_read_event_by_event(gateway):
    body = {
        "model": "gpt-4o-mini",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": "When?"}],
        "stream": True,
    }
    got = httpx.post(f"{gateway.url}/v1/messages", json=body, timeout=60).text
    deltas = [json.loads(line[6:]) for line in got.splitlines() if line.startswith("data: ") and "text_delta" in line]
    assert "".join(one["delta"]["text"] for one in deltas) == "".join(WORDS)
    assert "chat.completion" not in got
    assert '"usage":null' not in got
