"""The official OpenAI client gets the same through the gateway as straight from the provider, to the last byte."""

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pydantic
import pytest

ASK = [{"role": "user", "content": "Say something about harbours."}]


def png(width: int, height: int) -> str:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk).decode()


def tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


class Harbour(pydantic.BaseModel):
    name: str
    ships: int


JSON_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "harbour",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "depth": {"type": "number"}},
            "required": ["name", "depth"],
            "additionalProperties": False,
        },
    },
}

CHATS: dict[str, dict[str, Any]] = {
    "plain": {"model": "gpt-4o", "messages": ASK},
    "system prompt": {"model": "gpt-4o", "messages": [{"role": "system", "content": "Be brief. Ünïcode ☂"}, *ASK]},
    "several turns": {
        "model": "gpt-4.1-mini",
        "messages": [*ASK, {"role": "assistant", "content": "Harbours."}, {"role": "user", "content": "More"}],
    },
    "tools": {"model": "gpt-4o", "messages": ASK, "tools": [tool("weather")]},
    "parallel tools": {
        "model": "gpt-4o",
        "messages": ASK,
        "tools": [tool("weather"), tool("tides")],
        "extra_headers": {"x-sim-tools": "2"},
    },
    "tool result": {
        "model": "gpt-4o",
        "messages": [
            *ASK,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ],
        "tools": [tool("weather")],
    },
    "image": {
        "model": "gpt-4o",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": png(640, 480), "detail": "high"}},
                ],
            }
        ],
    },
    "json schema": {"model": "gpt-4o", "messages": ASK, "response_format": JSON_SCHEMA},
    "two choices": {"model": "gpt-4o-mini", "messages": ASK, "n": 2},
    "stop": {"model": "gpt-4o", "messages": ASK, "stop": ["the", " a "]},
    "logprobs": {"model": "gpt-4o", "messages": ASK, "logprobs": True, "top_logprobs": 2, "max_tokens": 9},
    "reasoning": {"model": "o4-mini", "messages": ASK, "reasoning_effort": "medium"},
    "priority tier": {"model": "gpt-5-mini", "messages": ASK, "service_tier": "priority"},
    "user and metadata": {"model": "gpt-4o", "messages": ASK, "user": "u1", "metadata": {"a": "b"}, "store": True},
    "unknown field": {"model": "gpt-4o", "messages": ASK, "extra_body": {"tomorrows_field": {"x": [1.50, None]}}},
    "truncated": {"model": "gpt-4o", "messages": ASK, "max_completion_tokens": 5},
    "cached prompt": {
        "model": "gpt-4o",
        "messages": [{"role": "system", "content": "All about harbours. " * 400}, *ASK],
    },
}


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sk-sim", max_retries=0)


@pytest.fixture(scope="module")
def pair(twins: Any) -> Iterator[tuple[openai.OpenAI, openai.OpenAI]]:
    """A client of the provider itself, and one of the gateway in front of its twin."""
    with client(twins.straight.url) as straight, client(twins.gateway.url) as through:
        yield straight, through


def both(pair: Any, work: Callable[[openai.OpenAI], Any]) -> tuple[Any, Any]:
    return work(pair[0]), work(pair[1])


@pytest.mark.parametrize("case", CHATS.values(), ids=CHATS)
def test_a_chat_completion_is_byte_for_byte_the_providers(pair, case):
    straight, through = both(pair, lambda one: one.chat.completions.with_raw_response.create(**case))
    assert through.http_response.content == straight.http_response.content
    assert through.parse().model_dump() == straight.parse().model_dump()
    for name, value in straight.headers.items():
        if name not in ("date", "connection"):
            assert through.headers[name] == value, name


@pytest.mark.parametrize("asks_usage", [False, True], ids=["without usage", "with usage"])
@pytest.mark.parametrize("case", CHATS.values(), ids=CHATS)
def test_a_streamed_chat_completion_has_the_providers_events(pair, case, asks_usage):
    options = {"stream_options": {"include_usage": True}} if asks_usage else {}

    def work(one: openai.OpenAI) -> list[Any]:
        return [event.model_dump() for event in one.chat.completions.create(**case, **options, stream=True)]

    straight, through = both(pair, work)
    assert through == straight
    assert bool(through[-1].get("usage")) is asks_usage


@pytest.mark.parametrize("asks", [None, False, True], ids=["not said", "declined", "asked"])
def test_the_raw_bytes_of_a_stream_are_the_providers_although_usage_is_asked_for(twins, asks):
    body: dict[str, Any] = {"model": "gpt-4o", "messages": ASK, "stream": True}
    if asks is not None:
        body["stream_options"] = {"include_usage": asks}
    headers = {"authorization": "Bearer sk-sim"}
    straight = httpx.post(f"{twins.straight.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    through = httpx.post(f"{twins.gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert through.content.split(b"\n\n") == straight.content.split(b"\n\n")
    assert (b'"usage"' in through.content) is bool(asks)
    entry = twins.gateway.books.entries(through.headers["x-farthing-request-id"])[0]
    assert entry.usage.source == "reported"
    assert entry.charge.total == twins.behind.account.invoice.lines[-1].amount_nusd


def test_async_clients_get_the_same(twins):
    async def work(url: str) -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-sim", max_retries=0) as one:
            answer = await one.chat.completions.create(model="gpt-4o", messages=ASK)
            stream = await one.chat.completions.create(model="gpt-4o", messages=ASK, stream=True)
            return [answer.model_dump(), *[event.model_dump() async for event in stream]]

    assert asyncio.run(work(twins.gateway.url)) == asyncio.run(work(twins.straight.url))


def test_structured_output_parses_into_the_same_object(pair):
    def work(one: openai.OpenAI) -> Any:
        return one.chat.completions.parse(model="gpt-4o", messages=ASK, response_format=Harbour).choices[0].message

    straight, through = both(pair, work)
    assert through.parsed == straight.parsed
    assert isinstance(through.parsed, Harbour)


def test_the_clients_stream_helper_ends_with_the_same_completion(pair):
    def work(one: openai.OpenAI) -> Any:
        with one.chat.completions.stream(model="gpt-4o", messages=ASK, tools=[tool("weather")]) as stream:
            return stream.get_final_completion().model_dump()

    straight, through = both(pair, work)
    assert through == straight


EMBEDDINGS = {
    "text": {"model": "text-embedding-3-small", "input": "harbour"},
    "floats": {"model": "text-embedding-3-small", "input": ["a", "b"], "encoding_format": "float"},
    "base64": {"model": "text-embedding-3-large", "input": "harbour", "encoding_format": "base64"},
    "short": {"model": "text-embedding-3-small", "input": "harbour", "dimensions": 8, "encoding_format": "float"},
    "tokens": {"model": "text-embedding-3-small", "input": [[1, 2, 3]]},
}


@pytest.mark.parametrize("case", EMBEDDINGS.values(), ids=EMBEDDINGS)
def test_embeddings_are_byte_for_byte_the_providers(pair, case):
    straight, through = both(pair, lambda one: one.embeddings.with_raw_response.create(**case))
    assert through.http_response.content == straight.http_response.content
    assert [row.embedding for row in through.parse().data] == [row.embedding for row in straight.parse().data]


COMPLETIONS = {
    "plain": {"model": "gpt-3.5-turbo-instruct", "prompt": "Once"},
    "long": {"model": "gpt-3.5-turbo-instruct", "prompt": "Once", "max_tokens": 40},
    "batch": {"model": "gpt-3.5-turbo-instruct", "prompt": ["Once", "Twice"], "n": 2},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", COMPLETIONS.values(), ids=COMPLETIONS)
def test_legacy_completions_are_the_providers(pair, case, stream):
    def work(one: openai.OpenAI) -> Any:
        answer = one.completions.create(**case, stream=stream)
        return [event.model_dump() for event in answer] if stream else answer.model_dump()

    straight, through = both(pair, work)
    assert through == straight


RESPONSES: dict[str, dict[str, Any]] = {
    "plain": {"model": "gpt-4.1-mini", "input": "Harbours?"},
    "instructions": {"model": "gpt-4o", "input": ASK, "instructions": "Be brief", "metadata": {"team": "x"}},
    "reasoning": {"model": "gpt-5-mini", "input": "Harbours?", "reasoning": {"effort": "low"}},
    "tools": {"model": "gpt-4o", "input": "Weather?", "tools": [{**tool("x")["function"], "type": "function"}]},
    "capped": {"model": "gpt-4o", "input": "Harbours?", "max_output_tokens": 16},
}


@pytest.mark.parametrize("case", RESPONSES.values(), ids=RESPONSES)
def test_responses_are_byte_for_byte_the_providers(pair, case):
    straight, through = both(pair, lambda one: one.responses.with_raw_response.create(**case))
    assert through.http_response.content == straight.http_response.content
    assert through.parse().model_dump() == straight.parse().model_dump()


@pytest.mark.parametrize("case", RESPONSES.values(), ids=RESPONSES)
def test_streamed_responses_have_the_providers_events(pair, case):
    def work(one: openai.OpenAI) -> list[Any]:
        return [event.model_dump() for event in one.responses.create(**case, stream=True)]

    straight, through = both(pair, work)
    assert through == straight
    assert through[-1]["type"] in ("response.completed", "response.incomplete")


def test_the_responses_stream_helper_ends_with_the_same_response(pair):
    def work(one: openai.OpenAI) -> Any:
        with one.responses.stream(model="gpt-4o", input="Harbours?") as stream:
            return stream.get_final_response().model_dump()

    straight, through = both(pair, work)
    assert through == straight


def test_models_are_listed_and_retrieved_as_by_the_provider(twins, pair):
    def work(one: openai.OpenAI) -> list[Any]:
        listed = [model.model_dump() for model in one.models.list()]
        return [*listed, one.models.retrieve("gpt-4o").model_dump()]

    straight, through = both(pair, work)
    assert through == straight
    with pytest.raises(openai.NotFoundError):
        pair[1].models.retrieve("no-such-model")


FAILURES = {
    "400": openai.BadRequestError,
    "401": openai.AuthenticationError,
    "403": openai.PermissionDeniedError,
    "404": openai.NotFoundError,
    "409": openai.ConflictError,
    "413": openai.APIStatusError,
    "429:retry-after=7": openai.RateLimitError,
    "500": openai.InternalServerError,
    "503": openai.InternalServerError,
    "529": openai.InternalServerError,
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("fault", "kind"), FAILURES.items(), ids=FAILURES)
def test_a_providers_error_reaches_the_client_as_the_same_exception(pair, fault, kind, stream):
    def work(one: openai.OpenAI) -> openai.APIStatusError:
        with pytest.raises(kind) as caught:
            one.chat.completions.create(
                model="gpt-4o", messages=ASK, stream=stream, extra_headers={"x-sim-fault": fault}
            )
        return caught.value

    straight, through = both(pair, work)
    assert type(through) is type(straight)
    assert through.status_code == straight.status_code
    assert through.response.content == straight.response.content
    assert through.response.headers.get("retry-after") == straight.response.headers.get("retry-after")
    assert through.response.headers["x-farthing-error"].startswith("provider_")


def test_a_caller_that_asked_nothing_sees_no_trace_of_the_gateway_in_the_body(pair):
    answer = pair[1].chat.completions.with_raw_response.create(model="gpt-4o", messages=ASK)
    pair[0].chat.completions.create(model="gpt-4o", messages=ASK)  # the twins go on alike
    assert "farthing" not in json.dumps({**json.loads(answer.http_response.content), "system_fingerprint": ""})
