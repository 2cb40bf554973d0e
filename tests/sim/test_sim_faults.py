"""Faults on demand, and what each of them costs."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import httpx
import openai
import pytest

from farthing.sim.errors import ApiError
from farthing.sim.faults import Fault, parse_fault
from farthing.sim.invoice import InvoiceLine
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings

# Plain HTTP on loopback: loading CA certificates for each call would only cost time.
post = partial(httpx.post, verify=False)

OPENAI = {"authorization": "Bearer sk-test"}
ANTHROPIC = {"x-api-key": "sk-ant-test", "anthropic-version": "2023-06-01"}
CHAT: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "Tell me about tides. [sim: tokens=120]"}],
}
MESSAGE: dict[str, Any] = {**CHAT, "model": "claude-sonnet-4-6", "max_tokens": 2000}


@pytest.fixture(scope="module")
def server() -> Iterator[SimServer]:
    with SimServer(SimSettings()) as made:
        yield made


@pytest.fixture
def sim(server: SimServer) -> SimServer:
    post(f"{server.url}/sim/reset")
    return server


def chat(sim: SimServer, fault: str = "", *, timeout: float = 10.0, **body: Any) -> httpx.Response:
    headers = OPENAI | ({"x-sim-fault": fault} if fault else {})
    return post(f"{sim.url}/v1/chat/completions", json=CHAT | body, headers=headers, timeout=timeout)


def streamed(sim: SimServer, fault: str) -> tuple[list[str], bool]:
    """The events received, and whether the stream ended properly."""
    events: list[str] = []
    with (
        httpx.Client(verify=False, timeout=60) as client,
        client.stream(
            "POST",
            f"{sim.url}/v1/chat/completions",
            json=CHAT | {"stream": True},
            headers=OPENAI | {"x-sim-fault": fault},
        ) as answer,
    ):
        try:
            events.extend(line[6:] for line in answer.iter_lines() if line.startswith("data: "))
        except httpx.RemoteProtocolError:
            return events, False
    return events, True


def only_line(sim: SimServer) -> InvoiceLine:
    """The one line on the invoice, waiting a moment for a call that ends after its client left."""
    deadline = time.monotonic() + 60
    while not sim.account.invoice.lines and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(sim.account.invoice.lines) == 1
    return sim.account.invoice.lines[0]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 429, 500, 502, 503, 504, 529])
def test_status_faults_answer_with_their_status_and_cost_nothing(sim: SimServer, status: int) -> None:
    answer = chat(sim, str(status))
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert sim.account.invoice.lines == []


def test_a_429_says_how_long_to_wait(sim: SimServer) -> None:
    assert chat(sim, "429").headers["retry-after"] == "1"
    assert chat(sim, "429:retry-after=2").headers["retry-after"] == "2"
    assert chat(sim, "429:code=insufficient_quota").json()["error"]["code"] == "insufficient_quota"


def test_the_official_client_retries_past_a_fault_that_hits_first_attempts(sim: SimServer) -> None:
    order = {"rules": [{"fault": "429:retry-after=0", "first_attempts": 2}]}
    assert post(f"{sim.url}/sim/faults", json=order).status_code == 200
    with openai.OpenAI(base_url=f"{sim.url}/v1", api_key="sk-test", max_retries=2) as client:
        answer = client.chat.completions.create(**CHAT)
    assert answer.id == only_line(sim).id
    assert sim.account.requests == 3
    assert sim.account.refused == 2


def test_attempts_are_counted_per_request_and_named_by_header(sim: SimServer) -> None:
    post(f"{sim.url}/sim/faults", json={"rules": [{"fault": "503", "first_attempts": 1}]})

    def attempt(name: str, text: str) -> int:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], "max_tokens": 1}
        headers = OPENAI | ({"x-sim-request": name} if name else {})
        return post(f"{sim.url}/v1/chat/completions", json=body, headers=headers).status_code

    assert [attempt("", "a"), attempt("", "a"), attempt("", "b"), attempt("", "b")] == [503, 200, 503, 200]
    assert [attempt("r1", "c"), attempt("r1", "d"), attempt("r2", "d")] == [503, 200, 503]


def test_rules_choose_by_model_endpoint_and_stream_and_rest_after_their_times(sim: SimServer) -> None:
    rules = [
        {"fault": "500", "model": "gpt-4o-mini"},
        {"fault": "503", "stream": True, "endpoint": "/v1/chat/completions"},
        {"fault": "529", "times": 1},
    ]
    post(f"{sim.url}/sim/faults", json={"rules": rules})
    assert chat(sim, model="gpt-4o-mini").status_code == 500
    assert chat(sim, stream=True).status_code == 503
    assert [chat(sim).status_code, chat(sim).status_code] == [529, 200]
    post(f"{sim.url}/sim/faults", json={})
    assert chat(sim, model="gpt-4o-mini").status_code == 200


def test_a_drawn_rate_is_repeatable_and_near_its_share(sim: SimServer) -> None:
    def outcomes(seed: int) -> list[int]:
        post(f"{sim.url}/sim/faults", json={"seed": seed, "rules": [{"fault": "500", "rate": 0.3}]})
        with httpx.Client(headers=OPENAI, verify=False, timeout=60) as client:
            return [
                client.post(
                    f"{sim.url}/v1/chat/completions",
                    json=CHAT | {"max_tokens": 1},
                    headers={"x-sim-request": str(number)},
                ).status_code
                for number in range(200)
            ]

    first = outcomes(1)
    assert first == outcomes(1)
    assert first != outcomes(2)
    assert 35 <= first.count(500) <= 90


@pytest.mark.parametrize(
    "order", [{"rules": [{"fault": "teapot"}]}, {"rules": [{"fault": "500", "rate": 2}]}, {"x": 1}]
)
def test_a_wrong_fault_order_is_refused_with_a_reason(sim: SimServer, order: dict[str, Any]) -> None:
    answer = post(f"{sim.url}/sim/faults", json=order)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_a_misspelt_fault_header_is_refused_not_ignored(sim: SimServer) -> None:
    assert "unknown fault" in chat(sim, "cutt:3").json()["error"]["message"]
    assert "needs a whole number" in chat(sim, "cut").json()["error"]["message"]
    assert sim.account.invoice.lines == []


def test_fault_texts_are_parsed() -> None:
    assert parse_fault("429:retry-after=2") == Fault(
        text="429:retry-after=2", kind="429", options={"retry-after": "2"}
    )
    assert parse_fault("slow:250").value == 250
    with pytest.raises(ApiError):
        parse_fault("slow:soon")


@pytest.mark.parametrize("fault", ["slow:150", "slow-first-byte:150"])
@pytest.mark.parametrize("stream", [False, True])
def test_slow_answers_arrive_late_and_whole(sim: SimServer, fault: str, stream: bool) -> None:
    started = time.monotonic()
    answer = chat(sim, fault, stream=stream)
    assert time.monotonic() - started >= 0.15
    assert answer.status_code == 200
    line = only_line(sim)
    assert line.delivered
    assert line.tokens.output == 120


@pytest.mark.parametrize("fault", ["hang", "slow:400", "slow-first-byte:400"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_the_caller_gives_up_on_is_billed_in_full(sim: SimServer, fault: str, stream: bool) -> None:
    with pytest.raises(httpx.ReadTimeout):
        chat(sim, fault, stream=stream, timeout=0.2)
    line = only_line(sim)
    assert line.tokens.output == 120
    assert line.complete
    assert not line.delivered


@pytest.mark.parametrize("stream", [False, True])
def test_a_reset_reaches_the_client_as_a_dead_connection_and_is_billed(sim: SimServer, stream: bool) -> None:
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        chat(sim, "reset", stream=stream)
    line = only_line(sim)
    assert line.tokens.output == 120
    assert not line.delivered
    assert line.fault == "reset"


def test_a_plain_body_cut_after_n_bytes_is_billed_in_full(sim: SimServer) -> None:
    with (
        httpx.Client(verify=False, timeout=60) as client,
        client.stream(
            "POST", f"{sim.url}/v1/chat/completions", json=CHAT, headers=OPENAI | {"x-sim-fault": "cut:40"}
        ) as answer,
    ):
        received = b""
        parts = answer.iter_bytes()
        while True:
            try:
                received += next(parts)
            except httpx.RemoteProtocolError:
                break
    assert len(received) == 40
    line = only_line(sim)
    assert (line.tokens.output, line.complete, line.delivered) == (120, True, False)


@pytest.mark.parametrize("events", [0, 1, 2, 5, 20])
def test_a_stream_cut_after_n_events_is_billed_for_the_tokens_of_those_events(sim: SimServer, events: int) -> None:
    received, ended = streamed(sim, f"cut:{events}")
    assert not ended
    assert len(received) == events
    line = only_line(sim)
    # The first event opens the message; each later one carries four tokens.
    assert line.tokens.output == 4 * max(0, events - 1)
    assert (line.complete, line.delivered) == (False, False)
    assert line.tokens.input > 0


def test_hidden_reasoning_is_done_and_billed_before_the_first_event(sim: SimServer) -> None:
    wanted = CHAT | {"model": "gpt-5-mini", "stream": True}
    with pytest.raises(httpx.RemoteProtocolError):
        post(f"{sim.url}/v1/chat/completions", json=wanted, headers=OPENAI | {"x-sim-fault": "cut:1"})
    line = only_line(sim)
    assert line.tokens.reasoning > 0
    assert line.tokens.output == 0


def test_a_cut_beyond_the_end_changes_nothing(sim: SimServer) -> None:
    received, ended = streamed(sim, "cut:10000")
    assert ended
    assert received[-1] == "[DONE]"
    assert only_line(sim).delivered


def test_no_usage_leaves_usage_out_but_bills(sim: SimServer) -> None:
    assert "usage" not in chat(sim, "no-usage").json()
    events, _ = streamed(sim, "no-usage")
    assert not any("completion_tokens" in event for event in events)
    message = post(f"{sim.url}/v1/messages", json=MESSAGE, headers=ANTHROPIC | {"x-sim-fault": "no-usage"}).json()
    assert "usage" not in message
    assert [line.tokens.output for line in sim.account.invoice.lines[:2]] == [120, 120]
    assert len(sim.account.invoice.lines) == 3


def test_malformed_answers_are_not_json_but_billed(sim: SimServer) -> None:
    answer = chat(sim, "malformed")
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert only_line(sim).tokens.output == 120
    events, ended = streamed(sim, "malformed")
    assert ended
    broken = 0
    for event in events[:-1]:
        with suppress(json.JSONDecodeError):
            json.loads(event)
            continue
        broken += 1
    assert broken == 1


async def test_generation_stops_soon_after_the_client_has_gone() -> None:
    with SimServer(SimSettings(speed=1.0)) as sim:
        body = json.dumps(CHAT | {"stream": True}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: sim\r\nAuthorization: Bearer sk-test\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        received = b""
        while received.count(b"data: ") < 6:
            received += await reader.read(65_536)
        writer.close()
        await writer.wait_closed()
        for _ in range(500):
            if sim.account.invoice.lines:
                break
            await asyncio.sleep(0.01)
        line = sim.account.invoice.lines[0]
    seen = 4 * (received.count(b"data: ") - 1)
    assert seen <= line.tokens.output < 120
    assert (line.complete, line.delivered) == (False, False)


def test_a_stream_open_when_the_simulator_stops_is_billed() -> None:
    sim = SimServer(SimSettings()).start()
    with (
        httpx.Client(verify=False, timeout=60) as client,
        client.stream(
            "POST",
            f"{sim.url}/v1/chat/completions",
            json=CHAT | {"stream": True},
            headers=OPENAI | {"x-sim-fault": "slow-first-byte:60000"},
        ),
    ):
        sim.stop()
    assert len(sim.account.invoice.lines) == 1
    assert not sim.account.invoice.lines[0].delivered


def test_latency_follows_the_speed_setting() -> None:
    with SimServer(SimSettings(speed=0.1)) as sim:
        started = time.monotonic()
        chat(sim)
        # gpt-4o: 450 ms to the first token and 120 tokens of 11 ms, at a tenth.
        assert time.monotonic() - started >= 0.17
