"""Questions that are asked with a key again and again, over HTTP: answered the short way, booked like any hit."""

import hashlib
import http.client
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai

from farthing import bootstrap
from farthing.core.types import KeyRecord, LedgerEntry, Scope
from farthing.testing.gateway import GatewayServer

CACHE = '[[cache]]\nname = "all"\ntags = ["faq"]\n'
CHAT = "/v1/chat/completions"
SECRET = "fk-repeats"
HELLO: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "Say something about harbours."}],
}


def with_key(gateway: GatewayServer) -> None:
    keys = bootstrap.open_keys(gateway.settings)
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    keys.add(KeyRecord(id="key_r", name="r", hash=digest, hint="", scope=Scope(org="o", team="t"), created_at_ms=1))
    keys.close()
    time.sleep(1.1)  # the first key ends the open house after a second at the latest


def asked(gateway: GatewayServer, http: httpx.Client, times: int, **more: Any) -> list[httpx.Response]:
    headers = {"authorization": f"Bearer {SECRET}"}
    return [http.post(gateway.url + CHAT, json={**HELLO, **more}, headers=headers) for _ in range(times)]


def without_age(entry: LedgerEntry) -> Any:
    decisions = [[pair for pair in one.evidence if pair[0] != "age_ms"] for one in entry.decisions]
    return decisions, entry.scope, entry.charge, entry.baseline, entry.usage, entry.fidelity, entry.stream


def test_every_repetition_is_answered_and_booked_like_the_first_hit(
    stand: Callable[..., Any], http: httpx.Client
) -> None:
    sim, gateway = stand(CACHE)
    with_key(gateway)
    for more in ({}, {"stream": True}):
        answers = asked(gateway, http, 6, **more)
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers[-4:]}) == 1
        assert len({tuple(sorted(set(answer.headers) - {"date"})) for answer in answers[-4:]}) == 1
        ids = [answer.headers["x-farthing-request-id"] for answer in answers[-4:]]
        entries = [gateway.books.entries(one)[0] for one in ids]
        assert all(without_age(entry) == without_age(entries[0]) for entry in entries)
        ages = [int(dict(entry.decisions[0].evidence)["age_ms"]) for entry in entries]
        assert ages == sorted(ages)
        exchanges = [gateway.books.exchange(one) for one in ids]
        assert [one.decisions for one in exchanges] == [entry.decisions for entry in entries]
    assert len(sim.account.invoice.lines) == 1
    metrics = httpx.get(f"{gateway.url}/metrics").text
    assert 'farthing_cache_events_total{event="hit:memory",route="all"} 11.0' in metrics


def test_official_clients_take_repetitions(stand: Callable[..., Any]) -> None:
    _, gateway = stand(CACHE)
    with_key(gateway)
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=SECRET, max_retries=0)
    whole = {client.chat.completions.create(**HELLO).choices[0].message.content for _ in range(5)}
    texts = set()
    for _ in range(4):
        chunks = list(client.chat.completions.create(**HELLO, stream=True, stream_options={"include_usage": True}))
        texts.add("".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices))
        assert chunks[-1].usage is not None
    client.close()
    assert texts == whole
    assert len(whole) == 1


def test_a_connection_that_ends_gets_its_answer_too(stand: Callable[..., Any], http: httpx.Client) -> None:
    _, gateway = stand(CACHE)
    with_key(gateway)
    expected = asked(gateway, http, 4)[-1].content
    for stream in (False, True):
        asked(gateway, http, 3, stream=stream)
        connection = http_connection(gateway)
        headers = {"authorization": f"Bearer {SECRET}", "connection": "close", "content-type": "application/json"}
        connection.request("POST", CHAT, json.dumps({**HELLO, "stream": stream}), headers)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-farthing-cache"] == "hit"
        assert body == expected or (stream and body.endswith(b"data: [DONE]\n\n"))


def http_connection(gateway: GatewayServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)


def test_a_revoked_key_and_a_forgotten_answer_end_repetitions(stand: Callable[..., Any], http: httpx.Client) -> None:
    sim, gateway = stand(CACHE)
    with_key(gateway)
    assert [answer.headers["x-farthing-cache"] for answer in asked(gateway, http, 4)] == ["miss", "hit", "hit", "hit"]
    bypassed = http.post(
        gateway.url + CHAT,
        json=HELLO,
        headers={"authorization": f"Bearer {SECRET}", "cache-control": "no-cache"},
    )
    assert bypassed.headers["x-farthing-cache"] == "refresh"
    fresh = asked(gateway, http, 1)[0]
    assert fresh.content == bypassed.content
    assert fresh.headers["x-farthing-cache"] == "hit"
    keys = bootstrap.open_keys(gateway.settings)
    keys.revoke("key_r", at_ms=2)
    keys.close()
    time.sleep(1.1)  # a revoked key ends within a second
    assert asked(gateway, http, 1)[0].status_code == 401
    assert len(sim.account.invoice.lines) == 2
