"""The exact cache over HTTP: official clients get valid answers from it, streamed and plain."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from farthing.core.types import LedgerEntry
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayProcess, GatewayServer, simulated_providers

CACHE = '[[cache]]\nname = "all"\n'
ASK = [{"role": "user", "content": "Say something about harbours."}]
HELLO = {"model": "gpt-4o", "messages": ASK}
CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


CLIENTS: list[openai.OpenAI | anthropic.Anthropic] = []
"""Those of the test that runs."""


@pytest.fixture(autouse=True)
def _clients() -> Iterator[None]:
    """Closes them: the collector may take a forgotten client's socket before the client itself, and that is told."""
    yield
    while CLIENTS:
        CLIENTS.pop().close()


def of_openai(gateway: GatewayServer) -> openai.OpenAI:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-test", max_retries=0)
    CLIENTS.append(client)
    return client


def of_anthropic(gateway: GatewayServer) -> anthropic.Anthropic:
    client = anthropic.Anthropic(base_url=gateway.url, api_key="sk-test", max_retries=0)
    CLIENTS.append(client)
    return client


def calls(sim: SimServer) -> int:
    return len(sim.account.invoice.lines)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    """One gateway for tests that look at answers only; each asks a question of its own."""
    strict = '[[cache]]\nname = "strict"\nmatch = { feature = "strict" }\ntemperature_max = 1\nseeded = false\n'
    with SimServer(SimSettings()) as sim:
        toml = strict + CACHE + simulated_providers(sim.url)
        with GatewayServer(tmp_path_factory.mktemp("shared"), toml) as gateway:
            yield gateway


def own(name: str) -> dict[str, Any]:
    """A question that nobody else asks."""
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": f"Say something about {name}."}]}


def evidence(entry: LedgerEntry) -> dict[str, str]:
    return next(dict(one.evidence) for one in entry.decisions if one.stage == "cache")


# -- what the official clients get


def chat_text(client: openai.OpenAI, stream: bool, **more: Any) -> tuple[str, Any]:
    if not stream:
        answer = client.chat.completions.create(**HELLO, **more)
        return answer.choices[0].message.content, answer.usage
    text, usage, finish = "", None, None
    for chunk in client.chat.completions.create(**HELLO, stream=True, **more):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert finish == "stop"
    return text, usage


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_a_chat_is_replayed_in_the_form_asked_for(stand: Callable[..., Any], first: bool, second: bool) -> None:
    sim, gateway = stand(CACHE)
    client = of_openai(gateway)
    made, _ = chat_text(client, first)
    again, usage = chat_text(client, second, **({"stream_options": {"include_usage": True}} if second else {}))
    assert made == again
    assert calls(sim) == 1
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 0
    paid, hit = gateway.books.settled(2)
    assert (hit.charge.total, hit.charge.state, hit.usage.parts) == (0, "free", ())
    assert hit.baseline == paid.charge.total == sim.account.invoice.total_nusd
    assert hit.fidelity == "exact"
    assert evidence(hit)["source"] == paid.id
    assert int(evidence(hit)["age_ms"]) >= 0


def test_a_stream_without_usage_stays_without(stand: Callable[..., Any]) -> None:
    sim, gateway = stand(CACHE)
    for _ in range(2):
        _, usage = chat_text(of_openai(gateway), True)
        assert usage is None
    assert calls(sim) == 1


def test_the_stream_helper_of_the_client_accepts_a_replay(stand: Callable[..., Any]) -> None:
    _, gateway = stand(CACHE)
    client = of_openai(gateway)
    made = client.chat.completions.create(**HELLO)
    with client.chat.completions.stream(**HELLO) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == made.choices[0].message.content
    assert final.id == made.id


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_a_message_is_replayed_in_the_form_asked_for(stand: Callable[..., Any], first: bool, second: bool) -> None:
    sim, gateway = stand(CACHE)
    client = of_anthropic(gateway)
    said: dict[str, Any] = {"model": "claude-sonnet-4-6", "max_tokens": 4000, "messages": ASK}

    def ask(stream: bool) -> anthropic.types.Message:
        if not stream:
            return client.messages.create(**said)
        with client.messages.stream(**said) as events:
            kinds = [event.type for event in events]
            assert kinds[0] == "message_start"
            assert kinds[-1] == "message_stop"
            return events.get_final_message()

    made, again = ask(first), ask(second)
    assert calls(sim) == 1
    assert made.model_dump(exclude_none=True, exclude_defaults=True) == again.model_dump(
        exclude_none=True, exclude_defaults=True
    )
    _, hit = gateway.books.settled(2)
    assert hit.baseline == sim.account.invoice.total_nusd


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_a_response_is_replayed_in_the_form_asked_for(stand: Callable[..., Any], first: bool, second: bool) -> None:
    sim, gateway = stand(CACHE)
    client = of_openai(gateway)

    def ask(stream: bool) -> Any:
        if not stream:
            return client.responses.create(model="gpt-4o", input="Harbours?")
        with client.responses.stream(model="gpt-4o", input="Harbours?") as events:
            text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
            final = events.get_final_response()
            assert final.output_text == text
            return final

    made, again = ask(first), ask(second)
    assert calls(sim) == 1
    assert (made.id, made.output_text) == (again.id, again.output_text)
    assert made.usage == again.usage


@pytest.mark.parametrize("stream", [False, True])
def test_legacy_completions_and_embeddings_are_replayed(stand: Callable[..., Any], stream: bool) -> None:
    sim, gateway = stand(CACHE)
    client = of_openai(gateway)
    said: dict[str, Any] = {"model": "gpt-3.5-turbo-instruct", "prompt": "Harbours", "max_tokens": 4000}
    made = client.completions.create(**said)
    if made.choices[0].finish_reason == "stop":
        if stream:
            text = "".join(chunk.choices[0].text for chunk in client.completions.create(**said, stream=True))
        else:
            text = client.completions.create(**said).choices[0].text
        assert text == made.choices[0].text
        assert calls(sim) == 1
    before = calls(sim)
    vectors = [client.embeddings.create(model="text-embedding-3-small", input="abc").data for _ in range(2)]
    assert vectors[0] == vectors[1]
    assert calls(sim) == before + 1


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_are_kept_only_where_the_route_says_so(stand: Callable[..., Any], stream: bool) -> None:
    sim, gateway = stand(CACHE)
    for _ in range(2):
        of_openai(gateway).chat.completions.create(**HELLO, tools=[TOOL])
    assert calls(sim) == 2
    sim, gateway = stand(CACHE + "tools = true\n")
    client = of_openai(gateway)
    made = client.chat.completions.create(**HELLO, tools=[TOOL]).choices[0].message.tool_calls[0]
    if stream:
        with client.chat.completions.stream(**HELLO, tools=[TOOL]) as events:
            for _ in events:
                pass
            again = events.get_final_completion().choices[0].message.tool_calls[0]
    else:
        again = client.chat.completions.create(**HELLO, tools=[TOOL]).choices[0].message.tool_calls[0]
    assert (made.id, made.function.name, made.function.arguments) == (
        again.id,
        again.function.name,
        again.function.arguments,
    )
    assert calls(sim) == 1


# -- headers and controls


def test_answers_say_where_they_come_from(shared: GatewayServer, http: httpx.Client) -> None:
    made, hit = (http.post(shared.url + CHAT, json=own("headers")) for _ in range(2))
    assert made.headers["x-farthing-cache"] == "miss"
    assert hit.headers["x-farthing-cache"] == "hit"
    assert int(hit.headers["x-farthing-cache-age"]) >= 0
    assert hit.headers["x-farthing-cost-usd"] == "0.000000000"
    assert hit.content == made.content
    assert hit.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"x-farthing-cache": "bypass"}, ["bypass", "bypass", "miss"]),
        ({"cache-control": "no-store"}, ["miss", "miss", "miss"]),
        ({"cache-control": "no-cache"}, ["refresh", "refresh", "hit"]),
        ({"x-farthing-cache": "refresh"}, ["refresh", "refresh", "hit"]),
        ({"cache-control": "max-age=3600"}, ["miss", "hit", "hit"]),
        ({"cache-control": "max-stale=99999"}, ["miss", "hit", "hit"]),
    ],
)
def test_callers_may_only_narrow(
    shared: GatewayServer, http: httpx.Client, headers: dict[str, str], words: list[str]
) -> None:
    body = own(str(headers))
    said = [http.post(shared.url + CHAT, json=body, headers=headers) for _ in range(2)]
    said.append(http.post(shared.url + CHAT, json=body))
    assert [one.headers["x-farthing-cache"] for one in said] == words


def test_an_answer_older_than_the_caller_takes_is_not_served(shared: GatewayServer, http: httpx.Client) -> None:
    body = own("ages")
    http.post(shared.url + CHAT, json=body)
    time.sleep(0.01)
    young = http.post(shared.url + CHAT, json=body, headers={"cache-control": "max-age=0"})
    assert young.headers["x-farthing-cache"] == "miss"


def test_only_if_cached_never_calls_where_no_route_caches_either(
    stand: Callable[..., Any], http: httpx.Client
) -> None:
    sim, gateway = stand('[[cache]]\nname = "faq"\nmatch = { feature = "faq" }\n')
    answer = http.post(gateway.url + CHAT, json=HELLO, headers={"cache-control": "only-if-cached"})
    assert (answer.status_code, answer.headers["x-farthing-error"]) == (504, "not_cached")
    assert calls(sim) == 0


def test_only_if_cached_never_calls(stand: Callable[..., Any], http: httpx.Client) -> None:
    sim, gateway = stand(CACHE)
    only = {"cache-control": "only-if-cached"}
    refused = http.post(gateway.url + CHAT, json=HELLO, headers=only)
    assert (refused.status_code, refused.json()["error"]["code"], calls(sim)) == (504, "not_cached", 0)
    assert refused.headers["x-should-retry"] == "false"
    http.post(gateway.url + CHAT, json=HELLO)
    assert http.post(gateway.url + CHAT, json=HELLO, headers=only).headers["x-farthing-cache"] == "hit"


def test_an_unknown_wish_is_refused(shared: GatewayServer, http: httpx.Client) -> None:
    answer = http.post(shared.url + CHAT, json=HELLO, headers={"x-farthing-cache": "hit"})
    assert answer.status_code == 400
    assert "only-if-cached" in answer.text


# -- what is never kept


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_answer_is_not_kept(stand: Callable[..., Any], http: httpx.Client, stream: bool) -> None:
    sim, gateway = stand(CACHE)
    for _ in range(2):
        http.post(gateway.url + CHAT, json=HELLO | {"max_tokens": 3, "stream": stream})
    assert calls(sim) == 2


@pytest.mark.parametrize("fault", ["status=500", "status=429", "cut"])
def test_errors_and_broken_streams_are_not_kept(stand: Callable[..., Any], http: httpx.Client, fault: str) -> None:
    _, gateway = stand(CACHE + "[retries]\nattempts_max = 1\n")
    for _ in range(2):
        with contextlib.suppress(httpx.RemoteProtocolError):
            http.post(gateway.url + CHAT, json=HELLO | {"stream": True}, headers={"x-sim-fault": fault})
    good = http.post(gateway.url + CHAT, json=HELLO | {"stream": True})
    assert good.headers["x-farthing-cache"] in ("miss", "hit")
    assert good.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    "more",
    [{"temperature": 1.5}, {"n": 2}, {"seed": 7}, {"modalities": ["text", "audio"]}],
)
def test_rules_of_the_route_decide(shared: GatewayServer, http: httpx.Client, more: dict[str, Any]) -> None:
    strict = {"x-farthing-feature": "strict"}
    said = [http.post(shared.url + CHAT, json=own("rules") | more, headers=strict) for _ in range(2)]
    assert [one.headers.get("x-farthing-cache", "bypass") for one in said] == ["bypass", "bypass"]


# -- one call for many


async def plain_post(port: int, body: bytes) -> bytes:
    """One call on a connection of its own; an HTTP client takes longer to open 500 of them than this test may."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    return answer


def test_a_stampede_is_one_call(stand: Callable[..., Any]) -> None:
    """Half of the callers want a stream."""
    sim, gateway = stand(CACHE, sim=SimSettings(speed=0.5))

    async def storm() -> list[bytes]:
        bodies = [json.dumps(HELLO | {"stream": n % 2 == 1}).encode() for n in range(500)]
        return await asyncio.gather(*(plain_post(gateway.port, body) for body in bodies))

    answers = asyncio.run(storm())
    assert {answer[:15] for answer in answers} == {b"HTTP/1.1 200 OK"}
    assert calls(sim) == 1
    assert sum(b"x-farthing-cache: miss" in answer for answer in answers) == 1
    assert sum(b"x-farthing-cache: hit" in answer for answer in answers) == 499
    assert sum(b"data: [DONE]" in answer for answer in answers) == 250
    entries = gateway.books.settled(500)
    assert sum(entry.charge.total for entry in entries) == sim.account.invoice.total_nusd
    assert sum(entry.baseline for entry in entries) == 500 * sim.account.invoice.total_nusd


def test_followers_of_a_failed_leader_go_on_themselves(stand: Callable[..., Any]) -> None:
    sim, gateway = stand(CACHE + "[retries]\nattempts_max = 1\n", sim=SimSettings(speed=0.3))

    async def storm() -> list[int]:
        async with httpx.AsyncClient(timeout=60) as client:
            bad = asyncio.create_task(
                client.post(gateway.url + CHAT, json=HELLO, headers={"x-sim-fault": "status=500"})
            )
            await asyncio.sleep(0.05)
            rest = [client.post(gateway.url + CHAT, json=HELLO) for _ in range(5)]
            return [one.status_code for one in await asyncio.gather(bad, *rest)]

    statuses = asyncio.run(storm())
    assert statuses[1:] == [200] * 5
    assert 1 <= calls(sim) <= 5


@pytest.mark.parametrize(("policy", "asked", "missed"), [("drain", 1, 0), ("cancel", 2, 1)])
def test_a_leader_that_hangs_up_leaves_the_flight_to_one_other(
    stand: Callable[..., Any], policy: str, asked: int, missed: int
) -> None:
    """Under "drain" its answer is read to the end for those who wait; under "cancel" one of them asks again."""
    sim, gateway = stand(f'on_disconnect = "{policy}"\n{CACHE}', sim=SimSettings(speed=0.5, tokens_per_event=2))
    body = json.dumps(HELLO | {"stream": True, "max_tokens": 300}).encode()

    async def storm() -> list[bytes]:
        leader = asyncio.create_task(_leave_early(gateway.port, body))
        while not gateway.open_reservations():
            await asyncio.sleep(0.005)
        followers = [asyncio.create_task(plain_post(gateway.port, body)) for _ in range(10)]
        await leader
        return await asyncio.gather(*followers)

    answers = asyncio.run(storm())
    assert sum(b"x-farthing-cache: miss" in answer for answer in answers) == missed
    assert sum(b"x-farthing-cache: hit" in answer for answer in answers) == 10 - missed
    assert calls(sim) == asked


# -- restarts


def test_answers_survive_a_kill(tmp_path: Path, http: httpx.Client) -> None:
    with SimServer(SimSettings()) as sim:
        toml = CACHE + simulated_providers(sim.url)
        with GatewayProcess(tmp_path / "home", toml) as gateway:
            first = [http.post(gateway.url + CHAT, json=HELLO | {"seed": n}).content for n in range(20)]
            gateway.kill()
            gateway.start()
            again = [http.post(gateway.url + CHAT, json=HELLO | {"seed": n}) for n in range(20)]
            kept = [one.headers["x-farthing-cache"] == "hit" for one in again]
            assert kept[:19] == [True] * 19, "an answer is kept right after its caller has it: the last may be lost"
            assert [one.content for one in again][: sum(kept)] == first[: sum(kept)]
        assert calls(sim) == 40 - sum(kept)


def test_workers_share_one_call(tmp_path: Path) -> None:
    """Two gateways on one folder, as ``server.workers = 2`` runs them."""
    with SimServer(SimSettings(speed=0.3)) as sim:
        toml = CACHE + "[server]\nworkers = 2\n" + simulated_providers(sim.url)
        home = tmp_path / "home"
        with GatewayServer(home, toml) as one, GatewayServer(home, toml) as two:

            def ask(url: str) -> str:
                return httpx.post(url + CHAT, json=HELLO, timeout=30).headers["x-farthing-cache"]

            with ThreadPoolExecutor(8) as pool:
                words = list(pool.map(ask, [one.url, two.url] * 4))
            assert sorted(words) == ["hit"] * 7 + ["miss"]
            assert calls(sim) == 1


def test_a_capped_request_hits_from_memory_too(stand: Callable[..., Any], http: httpx.Client) -> None:
    _, gateway = stand(CACHE + "[limits]\noutput_tokens_max = 4000\n")
    words = [http.post(gateway.url + CHAT, json=HELLO).headers["x-farthing-cache"] for _ in range(2)]
    assert words == ["miss", "hit"]
    assert evidence(gateway.books.settled(2)[1])["layer"] == "memory"


async def _leave_early(port: int, body: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await reader.read(600)
    writer.transport.abort()


def test_a_stream_whose_caller_left_is_never_kept_in_part(stand: Callable[..., Any], http: httpx.Client) -> None:
    _, gateway = stand(CACHE, sim=SimSettings(speed=0.1))
    asyncio.run(_leave_early(gateway.port, json.dumps(HELLO | {"stream": True}).encode()))
    gateway.books.settled(1)
    whole = http.post(gateway.url + CHAT, json=HELLO, headers={"x-farthing-cache": "bypass"}).json()
    again = http.post(gateway.url + CHAT, json=HELLO).json()
    assert again["choices"][0]["message"]["content"] == whole["choices"][0]["message"]["content"]
