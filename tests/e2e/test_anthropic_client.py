"""The official Anthropic client gets the same through the gateway as straight from the provider."""

import asyncio
import base64
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import pytest

ASK = [{"role": "user", "content": "Say something about harbours."}]


def png(width: int, height: int) -> str:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk).decode()


def tool(name: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"name": name, "description": "About a city", "input_schema": schema}


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png(300, 200)}}
LONG = [{"type": "text", "text": "All about harbours. " * 700, "cache_control": {"type": "ephemeral"}}]

MESSAGES: dict[str, dict[str, Any]] = {
    "plain": {"messages": ASK},
    "system prompt": {"messages": ASK, "system": "Be brief. Ünïcode ☂"},
    "tools": {"messages": ASK, "tools": [tool("weather")]},
    "parallel tools": {
        "messages": ASK,
        "tools": [tool("weather"), tool("tides")],
        "extra_headers": {"x-sim-tools": "2"},
    },
    "tool result": {
        "messages": [
            *ASK,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "sunny"}]},
        ],
        "tools": [tool("weather")],
    },
    "image": {"messages": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "What is it?"}]}]},
    "thinking": {"messages": ASK, "thinking": {"type": "enabled", "budget_tokens": 1024}},
    "stop": {"messages": ASK, "stop_sequences": ["the"]},
    "truncated": {"messages": ASK, "max_tokens": 7},
    "cached prompt": {"messages": ASK, "system": LONG},
    "cached for an hour": {
        "messages": ASK,
        "system": [{**LONG[0], "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    },
    "metadata": {"messages": ASK, "metadata": {"user_id": "u-1"}},
    "unknown field": {"messages": ASK, "extra_body": {"tomorrows_field": {"x": [1.50, None]}}},
}


def filled(case: dict[str, Any]) -> dict[str, Any]:
    return {"model": "claude-sonnet-4-6", "max_tokens": 2000, **case}


def client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="sk-sim", max_retries=0)


@pytest.fixture(scope="module")
def pair(twins: Any) -> Iterator[tuple[anthropic.Anthropic, anthropic.Anthropic]]:
    """A client of the provider itself, and one of the gateway in front of its twin."""
    with client(twins.straight.url) as straight, client(twins.gateway.url) as through:
        yield straight, through


def both(pair: Any, work: Callable[[anthropic.Anthropic], Any]) -> tuple[Any, Any]:
    return work(pair[0]), work(pair[1])


@pytest.mark.parametrize("case", MESSAGES.values(), ids=MESSAGES)
def test_a_message_is_byte_for_byte_the_providers(pair, case):
    straight, through = both(pair, lambda one: one.messages.with_raw_response.create(**filled(case)))
    assert through.http_response.content == straight.http_response.content
    assert through.parse().model_dump() == straight.parse().model_dump()
    for name, value in straight.headers.items():
        if name not in ("date", "connection"):
            assert through.headers[name] == value, name


@pytest.mark.parametrize("case", MESSAGES.values(), ids=MESSAGES)
def test_a_streamed_message_has_the_providers_events(pair, case):
    def work(one: anthropic.Anthropic) -> list[Any]:
        return [event.model_dump() for event in one.messages.create(**filled(case), stream=True)]

    straight, through = both(pair, work)
    assert through == straight
    assert through[-1]["type"] == "message_stop"


@pytest.mark.parametrize("name", ["plain", "parallel tools", "thinking"])
def test_the_stream_helper_ends_with_the_same_message(pair, name):
    def work(one: anthropic.Anthropic) -> Any:
        with one.messages.stream(**filled(MESSAGES[name])) as stream:
            kinds = [event.type for event in stream]
            return kinds, stream.get_final_message().model_dump()

    straight, through = both(pair, work)
    assert through == straight


def test_the_raw_bytes_of_a_stream_are_the_providers(twins):
    body = {**filled(MESSAGES["thinking"]), "stream": True}
    headers = {"x-api-key": "sk-sim", "anthropic-version": "2023-06-01"}
    straight = httpx.post(f"{twins.straight.url}/v1/messages", json=body, headers=headers, timeout=60)
    through = httpx.post(f"{twins.gateway.url}/v1/messages", json=body, headers=headers, timeout=60)
    assert through.content == straight.content


def test_async_clients_get_the_same(twins):
    async def work(url: str) -> list[Any]:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="sk-sim", max_retries=0) as one:
            answer = await one.messages.create(**filled(MESSAGES["plain"]))
            async with one.messages.stream(**filled(MESSAGES["tools"])) as stream:
                final = await stream.get_final_message()
            return [answer.model_dump(), final.model_dump()]

    assert asyncio.run(work(twins.gateway.url)) == asyncio.run(work(twins.straight.url))


def test_counting_tokens_is_free_and_books_nothing(twins, pair):
    before = len(twins.gateway.books.entries())

    def work(one: anthropic.Anthropic) -> Any:
        return one.messages.with_raw_response.count_tokens(model="claude-sonnet-4-6", messages=ASK)

    straight, through = both(pair, work)
    assert through.http_response.content == straight.http_response.content
    exchange = twins.gateway.books.exchange(through.headers["x-farthing-request-id"])
    assert exchange.outcome == "answered"
    assert exchange.view.endpoint == "count_tokens"
    assert len(twins.gateway.books.entries()) == before


def test_models_are_listed_and_retrieved_as_by_the_provider(pair):
    def work(one: anthropic.Anthropic) -> list[Any]:
        listed = [model.model_dump() for model in one.models.list()]
        return [*listed, one.models.retrieve("claude-sonnet-4-6").model_dump()]

    straight, through = both(pair, work)
    assert through == straight


FAILURES = {
    "400": anthropic.BadRequestError,
    "401": anthropic.AuthenticationError,
    "403": anthropic.PermissionDeniedError,
    "404": anthropic.NotFoundError,
    "413": anthropic.APIStatusError,
    "429:retry-after=7": anthropic.RateLimitError,
    "500": anthropic.InternalServerError,
    "529": anthropic.InternalServerError,
}


@pytest.mark.parametrize(("fault", "kind"), FAILURES.items(), ids=FAILURES)
def test_a_providers_error_reaches_the_client_as_the_same_exception(pair, fault, kind):
    def work(one: anthropic.Anthropic) -> anthropic.APIStatusError:
        with pytest.raises(kind) as caught:
            one.messages.create(**filled(MESSAGES["plain"]), extra_headers={"x-sim-fault": fault})
        return caught.value

    straight, through = both(pair, work)
    assert type(through) is type(straight)
    assert through.response.content == straight.response.content
    assert through.response.headers.get("retry-after") == straight.response.headers.get("retry-after")
