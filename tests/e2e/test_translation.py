"""The official clients of one dialect against providers that speak another, each bill equal to the provider's own."""

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import anthropic
import httpx
import openai
import pydantic
import pytest

from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayServer, foreign_providers, simulated_providers

CLAUDE, GPT, GEMINI = "claude-haiku-4-5", "gpt-4o", "gemini-2.5-flash"
NOVA, BEDROCK = "amazon.nova-lite-v1:0", "us.anthropic.claude-haiku-4-5-20251001-v1:0"
FOR_OPENAI = (CLAUDE, GEMINI, NOVA, BEDROCK)
FOR_ANTHROPIC = (GPT, GEMINI, NOVA, BEDROCK)
ASK = [{"role": "user", "content": "Say something about harbours."}]
NO_RETRIES = "[retries]\nattempts_max = 1\n"


class Stand(NamedTuple):
    sim: SimServer
    gateway: GatewayServer
    openai: openai.OpenAI
    anthropic: anthropic.Anthropic


@pytest.fixture(scope="module")
def stand(tmp_path_factory: Any) -> Iterator[Stand]:
    with SimServer(SimSettings()) as sim:
        toml = NO_RETRIES + simulated_providers(sim.url) + foreign_providers(sim.url)
        with GatewayServer(tmp_path_factory.mktemp("translation"), toml) as gateway, clients(gateway.url) as both:
            yield Stand(sim, gateway, *both)


class clients:
    def __init__(self, url: str) -> None:
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-caller", max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=url, api_key="sk-caller", max_retries=0)

    def __enter__(self) -> Any:
        return self.openai, self.anthropic

    def __exit__(self, *_: object) -> None:
        self.openai.close()
        self.anthropic.close()


@pytest.fixture(autouse=True)
def _booked_to_the_nano_dollar(stand: Stand) -> Iterator[None]:
    """Whatever a test asks, the ledger says of every call what the invoice says, and nothing exceeds its ceiling."""
    before = len(stand.sim.account.invoice.lines)
    yield
    lines = stand.sim.account.invoice.lines[before:]
    entries = stand.gateway.books.settled(len(stand.sim.account.invoice.lines))[before:]
    assert [entry.charge.total for entry in entries] == [line.amount_nusd for line in lines]
    for entry, line in zip(entries, lines, strict=True):
        assert (entry.usage.source, entry.fidelity) == ("reported", "exact")
        assert entry.charge.total <= entry.ceiling
        assert sum(n for _, n in entry.usage.parts[0].lines) == line.tokens.prompt + line.tokens.generated
    assert stand.gateway.quiet()


def png(width: int, height: int) -> str:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk).decode()


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": SCHEMA}}


CHATS: dict[str, dict[str, Any]] = {
    "plain": {"messages": ASK},
    "system and turns": {
        "messages": [
            {"role": "system", "content": "Be brief. Ünïcode ☂"},
            *ASK,
            {"role": "assistant", "content": "Harbours."},
            {"role": "user", "content": "More"},
        ]
    },
    "tools": {"messages": ASK, "tools": [tool("weather")], "tool_choice": "required"},
    "parallel tools": {
        "messages": ASK,
        "tools": [tool("weather"), tool("tides")],
        "tool_choice": "required",
        "extra_headers": {"x-sim-tools": "2"},
    },
    "tool results": {
        "messages": [
            *ASK,
            {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "functions.x:2"}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
            {"role": "tool", "tool_call_id": "functions.x:2", "content": "rain"},
        ],
        "tools": [tool("weather")],
    },
    "image": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png(640, 480)}"}},
                ],
            }
        ]
    },
    "sampling": {"messages": ASK, "temperature": 0.2, "top_p": 0.9, "stop": ["the", " a "], "max_tokens": 500},
    "truncated": {"messages": ASK, "max_completion_tokens": 30, "extra_headers": {"x-sim-effort": "minimal"}},
}


@pytest.mark.parametrize("model", FOR_OPENAI)
@pytest.mark.parametrize("case", CHATS.values(), ids=CHATS)
def test_the_openai_client_chats_with_any_provider_whole_and_streamed_alike(stand, model, case):
    whole = stand.openai.chat.completions.create(model=model, **case)
    choice = whole.choices[0]
    with stand.openai.chat.completions.stream(model=model, stream_options={"include_usage": True}, **case) as stream:
        final = last_of(stream)
    streamed = final.choices[0]
    assert streamed.finish_reason == choice.finish_reason
    assert (streamed.message.content or "") == (choice.message.content or "")
    assert said(streamed.message) == said(choice.message)
    lines = stand.sim.account.invoice.lines[-2:]
    for usage, line in zip((whole.usage, final.usage), lines, strict=True):
        assert (usage.prompt_tokens, usage.completion_tokens) == (line.tokens.prompt, line.tokens.generated)
    expected = {"tools": "tool_calls", "parallel tools": "tool_calls", "truncated": "length"}
    name = next(name for name, one in CHATS.items() if one is case)
    assert choice.finish_reason == expected.get(name, "stop")
    assert len(said(choice.message)) == {"tools": 1, "parallel tools": 2}.get(name, 0)


def last_of(stream: Any) -> Any:
    """The final completion, of streams that were cut by their cap too."""
    for _ in stream:
        pass
    return stream.current_completion_snapshot


def said(message: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]


class Harbour(pydantic.BaseModel):
    name: str
    depth: float


@pytest.mark.parametrize("model", FOR_OPENAI)
def test_the_openai_client_gets_structured_output_from_any_provider(stand, model):
    answer = stand.openai.chat.completions.parse(model=model, messages=ASK, response_format=Harbour)
    assert isinstance(answer.choices[0].message.parsed, Harbour)
    text = stand.openai.responses.parse(model=model, input="A harbour, please", text_format=Harbour)
    assert isinstance(text.output_parsed, Harbour)


@pytest.mark.parametrize("model", FOR_OPENAI)
def test_the_responses_client_talks_to_any_provider(stand, model):
    create = stand.openai.responses.create
    whole = create(model=model, input="Say something about harbours.", instructions="Be brief.")
    with stand.openai.responses.stream(
        model=model, input="Say something about harbours.", instructions="Be brief."
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert (whole.status, final.output_text) == ("completed", whole.output_text)
    assert final.usage.total_tokens == whole.usage.total_tokens
    assert [kinds[0], kinds[-1]] == ["response.created", "response.completed"]
    line = stand.sim.account.invoice.lines[-1]
    assert (final.usage.input_tokens, final.usage.output_tokens) == (line.tokens.prompt, line.tokens.generated)


@pytest.mark.parametrize("model", FOR_OPENAI)
def test_the_responses_client_runs_a_tool_loop_with_any_provider(stand, model):
    tools = [{"type": "function", **tool(name)["function"], "strict": True} for name in ("weather", "tides")]
    asked: list[Any] = [{"role": "user", "content": "Weather and tides?"}]
    first = stand.openai.responses.create(
        model=model, input=asked, tools=tools, tool_choice="required", extra_headers={"x-sim-tools": "2"}
    )
    calls = [item for item in first.output if item.type == "function_call"]
    assert {call.name for call in calls} == {"weather", "tides"}
    asked += [item.model_dump(exclude_none=True) for item in first.output]
    asked += [{"type": "function_call_output", "call_id": call.call_id, "output": "fine"} for call in calls]
    second = stand.openai.responses.create(model=model, input=asked, tools=tools)
    assert second.output_text
    cut = stand.openai.responses.create(model=model, input="x", max_output_tokens=20)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


MESSAGES: dict[str, dict[str, Any]] = {
    "plain": {"messages": ASK},
    "system and turns": {
        "system": [{"type": "text", "text": "Be brief. Ünïcode ☂"}],
        "messages": [*ASK, {"role": "assistant", "content": "Harbours."}, {"role": "user", "content": "More"}],
    },
    "tools": {
        "messages": ASK,
        "tools": [{"name": "weather", "description": "d", "input_schema": SCHEMA}],
        "tool_choice": {"type": "any"},
    },
    "parallel tools": {
        "messages": ASK,
        "tools": [{"name": name, "input_schema": SCHEMA} for name in ("weather", "tides")],
        "tool_choice": {"type": "any"},
        "extra_headers": {"x-sim-tools": "2"},
    },
    "tool results": {
        "messages": [
            *ASK,
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}},
                    {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"},
                    {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": True, "content": []},
                    {"type": "text", "text": "And?"},
                ],
            },
        ],
        "tools": [{"name": "weather", "input_schema": SCHEMA}],
    },
    "image": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": png(640, 480)},
                    },
                ],
            }
        ]
    },
    "stop": {"messages": ASK, "extra_body": {"temperature": 0.2}, "stop_sequences": ["the", " a "]},
    "structured": {
        "messages": ASK,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    },
}


@pytest.mark.parametrize("model", FOR_ANTHROPIC)
@pytest.mark.parametrize("case", MESSAGES.values(), ids=MESSAGES)
def test_the_anthropic_client_talks_to_any_provider_whole_and_streamed_alike(stand, model, case):
    whole = stand.anthropic.messages.create(model=model, max_tokens=2_000, **case)
    with stand.anthropic.messages.stream(model=model, max_tokens=2_000, **case) as stream:
        final = stream.get_final_message()
    assert blocks(final) == blocks(whole)
    assert (final.stop_reason, final.stop_sequence) == (whole.stop_reason, whole.stop_sequence)
    lines = stand.sim.account.invoice.lines[-2:]
    for usage, line in zip((whole.usage, final.usage), lines, strict=True):
        assert (usage.input_tokens, usage.output_tokens) == (line.tokens.input, line.tokens.generated)
    kinds = [block.type for block in whole.content]
    name = next(name for name, one in MESSAGES.items() if one is case)
    if name != "tool results":  # the simulated GPT may call again when the user spoke last
        assert kinds == {"tools": ["tool_use"], "parallel tools": ["tool_use", "tool_use"]}.get(name, ["text"])
    if name == "structured":
        assert set(json.loads(whole.content[0].text)) == {"city"}


def blocks(message: Any) -> list[Any]:
    """What was said; ids of calls are the provider's, and Gemini's are made of the answer's own."""
    return [
        (block.type, block.text if block.type == "text" else (block.name, block.input)) for block in message.content
    ]


def test_a_truncated_answer_is_truncated_in_every_dialect(stand):
    for model in (GPT, NOVA, BEDROCK):
        cut = stand.anthropic.messages.create(model=model, max_tokens=20, messages=ASK)
        assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 20)
        with stand.anthropic.messages.stream(model=model, max_tokens=20, messages=ASK) as stream:
            assert stream.get_final_message().stop_reason == "max_tokens"


def test_thinking_is_shown_and_goes_back_to_the_provider_that_signed_it(stand):
    """Bedrock's Claude thinks for an Anthropic caller; a responses caller keeps the signature sealed."""
    asked = {"model": BEDROCK, "max_tokens": 8_000, "thinking": {"type": "enabled", "budget_tokens": 1_024}}
    first = stand.anthropic.messages.create(**asked, messages=ASK)
    assert [block.type for block in first.content] == ["thinking", "text"]
    assert first.content[0].signature
    turns = [*ASK, {"role": "assistant", "content": first.model_dump()["content"]}, *ASK]
    for turn in turns[1]["content"]:
        turn.pop("citations", None)
    raw = stand.anthropic.messages.with_raw_response.create(**asked, messages=turns)
    assert "messages.thinking" not in raw.headers.get("x-farthing-translation-loss", "")
    answer = stand.openai.responses.create(model=CLAUDE, input="x", reasoning={"effort": "low"})
    reasoning = answer.output[0]
    assert (reasoning.type, reasoning.encrypted_content.partition(":")[0]) == ("reasoning", "anthropic")
    again = [{"role": "user", "content": "x"}, *(one.model_dump(exclude_none=True) for one in answer.output), *ASK]
    raw = stand.openai.responses.with_raw_response.create(model=CLAUDE, input=again, reasoning={"effort": "low"})
    assert "messages.thinking" not in raw.headers["x-farthing-translation-loss"]


def test_cache_marks_reach_bedrock_and_what_the_cache_read_is_priced_so(stand):
    system = [{"type": "text", "text": "All about harbours. " * 2_000, "cache_control": {"type": "ephemeral"}}]
    one, two = (
        stand.anthropic.messages.create(model=BEDROCK, max_tokens=30, system=system, messages=ASK) for _ in range(2)
    )
    assert one.usage.cache_creation_input_tokens == two.usage.cache_read_input_tokens > 4_096


def test_async_clients_are_served_alike(stand):
    async def ask() -> None:
        url = stand.gateway.url
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
            whole = await client.chat.completions.create(model=CLAUDE, messages=ASK)
            words = ""
            async for chunk in await client.chat.completions.create(model=CLAUDE, messages=ASK, stream=True):
                assert chunk.usage is None, "the caller did not ask for usage"
                words += chunk.choices[0].delta.content or ""
            assert words == whole.choices[0].message.content
        async with anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as other:
            message = await other.messages.create(model=GPT, max_tokens=100, messages=ASK)
            async with other.messages.stream(model=GPT, max_tokens=100, messages=ASK) as stream:
                assert blocks(await stream.get_final_message()) == blocks(message)

    asyncio.run(ask())


# -- said openly


def test_what_is_lost_is_said_in_a_header_and_in_the_ledger(stand):
    raw = stand.openai.chat.completions.with_raw_response.create(
        model=CLAUDE, messages=ASK, max_tokens=50, seed=7, metadata={"a": "b"}, extra_body={"reasoning_effort": None}
    )
    assert raw.headers["x-farthing-translation"] == "chat-messages"
    assert raw.headers["x-farthing-translation-loss"] == "metadata,seed"
    (entry,) = stand.gateway.books.entries(raw.headers["x-farthing-request-id"])
    (decision,) = entry.decisions
    assert (decision.stage, decision.action, decision.reason) == ("translate", "translate", "other_dialect")
    assert dict(decision.evidence) == {"from": "chat", "to": "messages", "lost": "metadata,seed"}
    assert (entry.dialect, entry.endpoint, entry.provider) == ("openai", "chat", "anthropic")
    assert raw.headers["x-request-id"] == raw.http_response.headers["x-request-id"]


def test_a_hostile_field_name_cannot_forge_a_header(stand):
    body = {"model": CLAUDE, "max_tokens": 9, "messages": [{"role": "user", "content": "x", "a\r\nx-evil: 1,b": 1}]}
    answer = httpx.post(f"{stand.gateway.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200
    assert "x-evil" not in answer.headers
    assert answer.headers["x-farthing-translation-loss"] == "messages.a__x-evil__1_b"


def test_a_caller_of_the_same_dialect_is_not_translated(stand):
    raw = stand.openai.chat.completions.with_raw_response.create(model=GPT, messages=ASK)
    assert "x-farthing-translation" not in raw.headers
    (entry,) = stand.gateway.books.entries(raw.headers["x-farthing-request-id"])
    assert entry.decisions == ()


def test_what_cannot_be_translated_is_a_400_in_the_callers_words(stand):
    with pytest.raises(openai.BadRequestError) as one:
        stand.openai.chat.completions.create(model=CLAUDE, messages=ASK, n=2)
    assert (one.value.code, one.value.param) == ("not_translatable", "n")
    with pytest.raises(anthropic.BadRequestError, match="'mcp_servers' cannot be translated"):
        stand.anthropic.messages.create(
            model=GPT, max_tokens=9, messages=ASK, extra_body={"mcp_servers": [{"url": "https://x"}]}
        )
    with pytest.raises(openai.BadRequestError, match="'embeddings' calls cannot be translated"):
        stand.openai.embeddings.create(model=CLAUDE, input="x")
    with pytest.raises(anthropic.BadRequestError, match="'count_tokens' calls cannot be translated"):
        stand.anthropic.messages.count_tokens(model=GPT, messages=ASK)


@pytest.mark.parametrize("model", FOR_OPENAI)
@pytest.mark.parametrize(
    ("fault", "error"),
    [("400", openai.BadRequestError), ("401", openai.AuthenticationError), ("404", openai.NotFoundError),
     ("429", openai.RateLimitError), ("503", openai.InternalServerError), ("529", openai.InternalServerError)],
)  # fmt: skip
def test_a_providers_error_reaches_the_openai_client_as_its_own(stand, model, fault, error):
    with pytest.raises(error) as caught:
        stand.openai.chat.completions.create(model=model, messages=ASK, extra_headers={"x-sim-fault": fault})
    assert caught.value.body["message"]
    assert caught.value.status_code == (503 if fault == "529" else int(fault))


@pytest.mark.parametrize("model", FOR_ANTHROPIC)
@pytest.mark.parametrize(
    ("fault", "error", "kind"),
    [
        ("400", anthropic.BadRequestError, "invalid_request_error"),
        ("429", anthropic.RateLimitError, "rate_limit_error"),
        ("503", anthropic.InternalServerError, "overloaded_error"),
        ("500", anthropic.InternalServerError, "api_error"),
    ],
)  # fmt: skip
def test_a_providers_error_reaches_the_anthropic_client_as_its_own(stand, model, fault, error, kind):
    with pytest.raises(error) as caught:
        stand.anthropic.messages.create(model=model, max_tokens=9, messages=ASK, extra_headers={"x-sim-fault": fault})
    assert caught.value.body["error"]["type"] == kind
    assert caught.value.response.headers.get("retry-after") == ("1" if fault == "429" else None)


def test_a_callers_key_never_reaches_a_provider_of_another_api(tmp_path):
    """Without a key of its own the gateway passes credentials through, but only to the API they were made for."""
    with SimServer(SimSettings(keys=("sk-openai-secret",))) as sim:
        toml = f'[[providers]]\nname = "anthropic"\nbase_url = "{sim.url}/v1"\n'
        with GatewayServer(tmp_path, toml, env={}) as gateway, clients(gateway.url) as (client, _):
            client.api_key = "sk-openai-secret"
            with pytest.raises(openai.AuthenticationError, match="x-api-key header is required"):
                client.chat.completions.create(model=CLAUDE, messages=ASK)


def test_a_fallback_may_speak_another_api(tmp_path):
    with SimServer() as sim:
        toml = (
            NO_RETRIES + '[[fallbacks]]\nmodel = "gpt-4o"\nto = ["claude-haiku-4-5"]\n' + simulated_providers(sim.url)
        )
        with GatewayServer(tmp_path, toml) as gateway, clients(gateway.url) as (client, _):
            rule = {"rules": [{"fault": "503", "model": "gpt-4o"}]}
            httpx.post(f"{sim.url}/sim/faults", json=rule, timeout=60).raise_for_status()
            raw = client.chat.completions.with_raw_response.create(model=GPT, messages=ASK)
            assert raw.headers["x-farthing-route"] == "anthropic/claude-haiku-4-5"
            assert raw.parse().choices[0].message.content
            (entry,) = gateway.books.entries()
            assert entry.charge.total == sim.account.invoice.lines[-1].amount_nusd
            assert [one.reason for one in entry.decisions] == ["provider_failed", "other_dialect"]
            # what the fallback cannot say is passed over: the caller learns of the failure that came first
            with pytest.raises(openai.InternalServerError):
                client.chat.completions.create(model=GPT, messages=ASK, n=2)


@pytest.mark.parametrize("model", [CLAUDE, GEMINI, BEDROCK])
def test_a_stream_that_breaks_is_broken_for_the_caller_too_and_booked(tmp_path, model):
    with SimServer() as sim:
        toml = NO_RETRIES + simulated_providers(sim.url) + foreign_providers(sim.url)
        with GatewayServer(tmp_path, toml) as gateway, clients(gateway.url) as (client, _):
            cut = {"x-sim-fault": "cut:4"}
            stream = client.chat.completions.create(model=model, messages=ASK, stream=True, extra_headers=cut)
            chunks: list[Any] = []
            with pytest.raises((openai.APIError, httpx.HTTPError)):
                chunks.extend(one for one in stream if chunks.append(one))
            assert chunks
            assert not any(chunk.choices[0].finish_reason for chunk in chunks if chunk.choices)
            (entry,) = gateway.books.settled(1)
            assert (entry.error, entry.usage.source) == ("provider_stream_broken", "partial")
            assert 0 < entry.charge.total <= entry.ceiling


def test_a_translated_answer_is_cached_in_the_callers_words(tmp_path):
    """A stream whose caller wanted no usage; a later caller who asks for the whole is told it all the same."""
    with SimServer() as sim:
        toml = '[[cache]]\nname = "all"\nexact = true\n' + simulated_providers(sim.url)
        with GatewayServer(tmp_path, toml) as gateway, clients(gateway.url) as (client, _):
            ask = {"model": CLAUDE, "messages": ASK, "temperature": 0}
            words = [
                chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**ask, stream=True)
            ]
            raw = client.chat.completions.with_raw_response.create(**ask)
            assert raw.headers["x-farthing-cache"] == "hit"
            answer = raw.parse()
            assert answer.choices[0].message.content == "".join(words)
            (line,) = sim.account.invoice.lines
            assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
                line.tokens.prompt,
                line.tokens.generated,
            )
            assert [entry.charge.total for entry in gateway.books.settled(2)] == [line.amount_nusd, 0]
