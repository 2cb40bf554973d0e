"""Providers that fail: what is tried again, what is booked, what the caller is told, and that nothing stays held."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayServer, free_port, simulated_providers

ASK = [{"role": "user", "content": "Harbours?"}]
CHAT = {"model": "gpt-4o", "messages": ASK, "max_tokens": 200}
MESSAGE = {"model": "claude-sonnet-4-6", "messages": ASK, "max_tokens": 200}
POLICY = """
on_disconnect = "{on_disconnect}"
[retries]
attempts_max = 3
backoff = "1ms"
backoff_max = "2s"
[limits]
first_byte_timeout = "400ms"
idle_timeout = "400ms"
connect_timeout = "500ms"
[[fallbacks]]
model = "gpt-4.1"
to = ["gpt-4.1-mini", "nowhere/gpt-4.1-nano"]
on = ["rate_limited", "overloaded", "timed_out", "connection"]
[[budgets]]
name = "all"
per = "day"
usd = "1000"
[[providers]]
name = "nowhere"
base_url = "http://127.0.0.1:{port}/v1"
api_key_env = "SIM_KEY"
models = ["nowhere-*"]
"""


class Desk:
    def __init__(self, sim: SimServer, gateway: GatewayServer, http: httpx.Client) -> None:
        self.http = http
        self.sim = sim
        self.gateway = gateway

    def faults(self, *rules: dict[str, Any]) -> None:
        self.http.post(f"{self.sim.url}/sim/faults", json={"seed": 1, "rules": list(rules)}).raise_for_status()

    def post(self, body: dict[str, Any], *, fault: str = "", path: str = "/v1/chat/completions") -> httpx.Response:
        headers = {"x-sim-fault": fault} if fault else {}
        headers |= {"anthropic-version": "2023-06-01"} if path == "/v1/messages" else {}
        return self.http.post(self.gateway.url + path, json=body, headers=headers)

    def entries(self, answer: httpx.Response) -> list[Any]:
        return self.gateway.books.entries(answer.headers["x-farthing-request-id"])

    def exchange(self, answer: httpx.Response) -> Any:
        return self.gateway.books.exchange(answer.headers["x-farthing-request-id"])


def made(sim: SimServer, home: Any, on_disconnect: str) -> GatewayServer:
    toml = POLICY.format(on_disconnect=on_disconnect, port=free_port())
    return GatewayServer(home, toml + simulated_providers(sim.url))


@pytest.fixture(scope="module")
def draining(tmp_path_factory: pytest.TempPathFactory, http: httpx.Client) -> Iterator[Desk]:
    with SimServer() as sim, made(sim, tmp_path_factory.mktemp("drain"), "drain") as gateway:
        yield Desk(sim, gateway, http)


@pytest.fixture(scope="module")
def cancelling(tmp_path_factory: pytest.TempPathFactory, http: httpx.Client) -> Iterator[Desk]:
    with SimServer() as sim, made(sim, tmp_path_factory.mktemp("cancel"), "cancel") as gateway:
        yield Desk(sim, gateway, http)


@pytest.fixture
def desk(draining: Desk) -> Iterator[Desk]:
    draining.faults()
    yield draining
    draining.faults()
    assert draining.gateway.quiet()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", ["429:retry-after=0", "500", "503", "529"])
def test_what_passes_by_is_tried_again_and_only_the_answer_is_booked(desk, fault, stream):
    desk.faults({"fault": fault, "first_attempts": 2})
    answer = desk.post({**CHAT, "stream": stream, "user": fault})
    assert answer.status_code == 200
    (entry,) = desk.entries(answer)
    assert entry.attempt == 3
    assert [decision.reason for decision in entry.decisions] == [entry.decisions[0].reason] * 2
    assert entry.charge.total == desk.sim.account.invoice.lines[-1].amount_nusd
    exchange = desk.exchange(answer)
    assert [fact.status for fact in exchange.attempts] == [int(fault[:3]), int(fault[:3]), 200]
    assert [bool(fact.entry_id) for fact in exchange.attempts] == [False, False, True]


def test_after_the_last_try_the_caller_gets_the_providers_own_error(desk):
    desk.faults({"fault": "503:message=all-ships-at-sea"})
    answer = desk.post(CHAT)
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "all-ships-at-sea"
    assert answer.headers["x-farthing-error"] == "provider_overloaded"
    assert desk.entries(answer) == []
    assert len(desk.exchange(answer).attempts) == 3


@pytest.mark.parametrize("fault", ["400", "401", "403", "404", "413"])
def test_what_repeats_itself_is_not_tried_again(desk, fault):
    answer = desk.post(CHAT, fault=fault)
    assert answer.status_code == int(fault)
    assert len(desk.exchange(answer).attempts) == 1
    assert desk.entries(answer) == []


def test_retry_after_is_waited_for(desk):
    desk.faults({"fault": "429:retry-after=1", "first_attempts": 1})
    started = time.monotonic()
    answer = desk.post({**CHAT, "user": "patient"})
    assert answer.status_code == 200
    assert time.monotonic() - started >= 0.95
    (entry,) = desk.entries(answer)
    assert entry.decisions[0].evidence == (("after_ms", "1000"),)


def test_a_retry_after_longer_than_the_policy_waits_goes_to_the_caller(desk):
    desk.faults({"fault": "429:retry-after=30"})
    answer = desk.post(CHAT)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "30"
    assert len(desk.exchange(answer).attempts) == 1


def test_a_fallback_serves_when_the_model_keeps_failing_and_the_baseline_is_the_asked_for_model(desk):
    desk.faults({"fault": "503", "model": "gpt-4.1"})
    answer = desk.post({**CHAT, "model": "gpt-4.1"})
    assert answer.status_code == 200
    assert answer.json()["model"].startswith("gpt-4.1-mini")
    assert answer.headers["x-farthing-route"] == "openai/gpt-4.1-mini"
    assert answer.headers["x-farthing-route-reason"] == "fallback"
    (entry,) = desk.entries(answer)
    assert (entry.model_requested, entry.attempt) == ("gpt-4.1", 4)
    assert entry.charge.total == desk.sim.account.invoice.lines[-1].amount_nusd
    assert entry.baseline == 5 * entry.charge.total
    assert entry.decisions[-1].stage == "fallback"


def test_when_every_target_fails_the_last_error_is_told(desk):
    desk.faults({"fault": "503", "model": "gpt-4.1"}, {"fault": "529", "model": "gpt-4.1-mini"})
    answer = desk.post({**CHAT, "model": "gpt-4.1"})
    assert answer.status_code == 529
    assert answer.json()["error"]["message"] == "Overloaded"
    assert answer.headers["x-farthing-error"] == "provider_overloaded"
    exchange = desk.exchange(answer)
    assert len(exchange.attempts) == 6
    assert exchange.decisions[-1].action == "skip"  # the last fallback has no price: it hides nothing


def test_a_provider_that_nobody_reaches_costs_nothing(desk):
    answer = desk.post({**CHAT, "model": "nowhere-1"})
    assert answer.status_code in (422, 503)
    assert desk.entries(answer) == []


@pytest.mark.parametrize("fault", ["hang", "slow:900"])
def test_a_first_byte_that_does_not_come_is_booked_at_its_ceiling(desk, fault):
    answer = desk.post(CHAT, fault=fault)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "provider_timed_out"
    (entry,) = desk.entries(answer)
    assert (entry.error, entry.fidelity, entry.usage.source) == ("provider_timed_out", "unknown", "estimated")
    assert entry.charge.total == entry.ceiling
    assert entry.ceiling >= max(line.amount_nusd for line in desk.sim.account.invoice.lines[-1:])


def test_a_connection_reset_after_sending_is_booked_for_every_try(desk):
    answer = desk.post(CHAT, fault="reset")
    assert answer.status_code == 503
    entries = desk.entries(answer)
    assert [entry.attempt for entry in entries] == [1, 2, 3]
    assert all(entry.charge.total == entry.ceiling for entry in entries)
    assert sum(entry.charge.total for entry in entries) >= sum(
        line.amount_nusd for line in desk.sim.account.invoice.lines[-3:]
    )


def test_a_body_that_stalls_is_a_time_out(desk):
    answer = desk.post(CHAT, fault="slow-first-byte:1500")
    assert answer.status_code == 504
    (entry,) = desk.entries(answer)
    assert entry.fidelity == "unknown"


def test_a_plain_body_that_is_cut_is_a_502(desk):
    answer = desk.post(CHAT, fault="cut:20")
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "provider_stream_broken"
    (entry,) = desk.entries(answer)
    assert entry.charge.total == entry.ceiling


CUT = [
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/responses", {"model": "gpt-4o", "input": "Harbours?", "stream": True}),
    ("/v1/messages", {**MESSAGE, "stream": True}),
]


@pytest.mark.parametrize(("path", "body"), CUT, ids=["chat", "responses", "messages"])
def test_a_cut_stream_is_seen_as_cut_and_booked_as_partial(desk, path, body):
    got: list[bytes] = []
    headers = {"x-sim-fault": "cut:12", "anthropic-version": "2023-06-01"}
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("POST", desk.gateway.url + path, json=body, headers=headers, timeout=60) as answer,
    ):
        got.extend(answer.iter_raw())
    assert b"".join(got).count(b"\n\n") == 12
    (entry,) = desk.gateway.books.entries(answer.headers["x-farthing-request-id"])
    line = desk.sim.account.invoice.lines[-1]
    assert entry.usage.source == "partial"
    assert entry.error == "provider_stream_broken"
    assert entry.charge.total is not None
    assert line.amount_nusd // 2 <= entry.charge.total <= 3 * line.amount_nusd
    assert desk.exchange(answer).outcome == "failed"


def test_a_stream_that_falls_silent_is_cut_after_the_idle_time_out(desk):
    body = {**CHAT, "stream": True}
    headers = {"x-sim-fault": "slow-first-byte:2000"}
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream(
            "POST", f"{desk.gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=60
        ) as answer,
    ):
        answer.read()
    (entry,) = desk.gateway.books.entries(answer.headers["x-farthing-request-id"])
    assert (entry.error, entry.usage.source) == ("provider_timed_out", "partial")


def hang_up(gateway: GatewayServer, body: dict[str, Any], *, after: bytes = b"", fault: str = "") -> None:
    """Sends a request and closes the connection, at once or when ``after`` was seen."""
    payload = json.dumps(body).encode()
    extra = f"x-sim-fault: {fault}\r\n" if fault else ""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{extra}content-length: {len(payload)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(head.encode() + payload)
        seen = b""
        while after not in seen:
            seen += connection.recv(65536)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_caller_that_hangs_up_is_billed_the_true_usage_when_the_policy_drains(desk, stream):
    before = len(desk.gateway.books.entries())
    hang_up(desk.gateway, {**CHAT, "stream": stream}, fault="slow:150")
    entry = desk.gateway.books.settled(before + 1)[-1]
    assert entry.client_gone
    assert entry.usage.source == "reported"
    assert entry.charge.total == desk.sim.account.invoice.lines[-1].amount_nusd


def billed(sim: SimServer, count: int) -> Any:
    """The invoice's line number ``count``, which may come after the gateway has let go."""
    deadline = time.monotonic() + 60
    while len(sim.account.invoice.lines) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return sim.account.invoice.lines[count - 1]


def test_a_caller_that_hangs_up_ends_the_call_when_the_policy_cancels(cancelling):
    desk = cancelling
    before = len(desk.gateway.books.entries())
    lines = len(desk.sim.account.invoice.lines)
    hang_up(desk.gateway, CHAT, fault="slow-first-byte:300")
    entry = desk.gateway.books.settled(before + 1)[-1]
    assert entry.client_gone
    assert (entry.error, entry.fidelity) == ("client_gone", "unknown")
    assert entry.charge.total >= billed(desk.sim, lines + 1).amount_nusd
    assert desk.gateway.quiet()
    assert desk.gateway.books.exchange(entry.request_id).outcome == "aborted"


def test_a_stream_whose_reader_leaves_is_booked_as_partial_when_the_policy_cancels(tmp_path):
    with SimServer(SimSettings(speed=0.5, tokens_per_event=2)) as sim, made(sim, tmp_path, "cancel") as gateway:
        body = {**CHAT, "stream": True, "max_tokens": 1500}
        hang_up(gateway, body, after=b'"content":" ')
        (entry,) = gateway.books.settled(1)
        assert entry.client_gone
        assert (entry.usage.source, entry.error) == ("partial", "client_gone")
        assert gateway.quiet()
        line = billed(sim, 1)
        assert not line.complete
        assert entry.charge.total >= line.amount_nusd // 3


def test_the_deadline_of_a_request_ends_it_and_books_its_ceiling(tmp_path):
    toml = '[limits]\ntimeout = "1s"\n'
    with SimServer() as sim, GatewayServer(tmp_path, toml + simulated_providers(sim.url)) as gateway:
        answer = httpx.post(
            f"{gateway.url}/v1/chat/completions", json=CHAT, headers={"x-sim-fault": "hang"}, timeout=60
        )
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "provider_timed_out"
        (entry,) = gateway.books.settled(1)
        assert (entry.error, entry.charge.total) == ("deadline", entry.ceiling)
        assert gateway.quiet()


def test_stopping_lets_streams_in_flight_finish(tmp_path):
    with SimServer(SimSettings(speed=0.3)) as sim:
        gateway = made(sim, tmp_path, "drain").start()
        got: list[bytes] = []

        def read() -> None:
            with httpx.stream(
                "POST", f"{gateway.url}/v1/chat/completions", json={**CHAT, "stream": True}, timeout=60
            ) as answer:
                got.extend(answer.iter_raw())

        reader = threading.Thread(target=read)
        reader.start()
        while not got:
            time.sleep(0.01)
        gateway.stop()
        reader.join(30)
        assert b"".join(got).endswith(b"data: [DONE]\n\n")
        (entry,) = gateway.books.entries()
        assert entry.usage.source == "reported"
        assert entry.charge.total == sim.account.invoice.lines[-1].amount_nusd


def test_stopping_settles_what_does_not_finish_in_time(tmp_path):
    toml = '[server]\nshutdown_timeout = "1s"\n' + simulated_providers("{url}")
    with SimServer() as sim:
        gateway = GatewayServer(tmp_path, toml.replace("{url}", sim.url)).start()
        caller = threading.Thread(
            target=lambda: hang_up(gateway, {**CHAT, "stream": True}, fault="hang", after=b""), daemon=True
        )
        caller.start()
        with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
            payload = json.dumps(CHAT).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(payload)}\r\n"
            connection.sendall(head.encode() + b"x-sim-fault: hang\r\n\r\n" + payload)
            while len(gateway.open_reservations()) < 2:
                time.sleep(0.02)
            gateway.stop()
        entries = gateway.books.entries()
        assert len(entries) == 2
        assert all(entry.charge.total == entry.ceiling for entry in entries)
        caller.join(5)
