"""The official Anthropic client against the simulator."""

from collections.abc import Iterator
from functools import partial

import anthropic
import httpx
import pytest

from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.sim.tokens import count

# Plain HTTP on loopback: loading CA certificates for each call would only cost time.
post = partial(httpx.post, verify=False)

HELLO = [{"role": "user", "content": "Say something about harbours."}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CLOCK = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def sim() -> Iterator[SimServer]:
    with SimServer(SimSettings()) as server:
        yield server


@pytest.fixture
def client(sim: SimServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=sim.url, api_key="sk-ant-test", max_retries=0) as made:
        yield made


def claude_tokens(text: str, percent: int = 118) -> int:
    return (count(text) * percent + 50) // 100


def test_a_message_counts_by_the_documented_pseudo_tokenizer(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(model="claude-sonnet-4-6", max_tokens=2000, messages=HELLO, system="Be calm.")
    assert answer.usage.input_tokens == claude_tokens("Be calm.") + 4 + claude_tokens(HELLO[0]["content"])
    assert answer.usage.output_tokens == claude_tokens(answer.content[0].text)
    assert answer.usage.service_tier == "standard"
    assert answer.stop_reason == "end_turn"


def test_newer_models_count_with_their_own_factor(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(model="claude-haiku-5-5", max_tokens=2000, messages=HELLO)
    assert answer.usage.output_tokens == claude_tokens(answer.content[0].text, 153)


def test_a_stream_and_its_plain_twin_agree(client: anthropic.Anthropic) -> None:
    wanted = {"model": "claude-haiku-4-5", "max_tokens": 3000, "messages": HELLO}
    plain = client.messages.create(**wanted)
    with client.messages.stream(**wanted) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == plain.content[0].text
    assert final.usage.output_tokens == plain.usage.output_tokens
    assert final.usage.input_tokens == plain.usage.input_tokens
    assert final.stop_reason == "end_turn"


def test_raw_stream_events_follow_the_documented_order(client: anthropic.Anthropic) -> None:
    events = list(client.messages.create(model="claude-haiku-4-5", max_tokens=3000, messages=HELLO, stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start"
    assert kinds[1] == "content_block_start"
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0].message.usage.output_tokens == 1
    assert events[-2].usage.output_tokens > 1
    assert events[-2].usage.input_tokens == events[0].message.usage.input_tokens


def test_the_wire_carries_pings_and_lacks_the_ttl_split_at_the_end(sim: SimServer) -> None:
    headers = {"x-api-key": "sk-ant-test", "anthropic-version": "2023-06-01"}
    body = {"model": "claude-haiku-4-5", "max_tokens": 3000, "messages": HELLO, "stream": True}
    answer = post(f"{sim.url}/v1/messages", json=body, headers=headers)
    assert "event: ping\n" in answer.text
    closing = answer.text.split("event: message_delta\n")[1].split("\n")[0]
    assert "cache_read_input_tokens" in closing
    assert "ephemeral_5m" not in closing
    assert "service_tier" not in closing


async def test_the_async_client_is_served_too(sim: SimServer) -> None:
    async with anthropic.AsyncAnthropic(base_url=sim.url, api_key="sk-ant-test", max_retries=0) as client:
        plain = await client.messages.create(model="claude-opus-4-5", max_tokens=3000, messages=HELLO)
        async with client.messages.stream(model="claude-opus-4-5", max_tokens=3000, messages=HELLO) as stream:
            final = await stream.get_final_message()
    assert final.content[0].text == plain.content[0].text


@pytest.mark.parametrize("cap", [1, 2, 3, 7, 50])
def test_max_tokens_is_reported_exactly_when_it_cuts(client: anthropic.Anthropic, cap: int) -> None:
    answer = client.messages.create(model="claude-sonnet-4-6", max_tokens=cap, messages=HELLO)
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == cap


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model="claude-sonnet-4-6", max_tokens=3000, messages=HELLO).content[0].text
    word = whole.split()[4]
    answer = client.messages.create(model="claude-sonnet-4-6", max_tokens=3000, messages=HELLO, stop_sequences=[word])
    assert answer.stop_reason == "stop_sequence"
    assert answer.stop_sequence == word
    assert answer.content[0].text == whole[: whole.index(word)]


def test_tools_are_used_and_their_results_answered(client: anthropic.Anthropic) -> None:
    wanted = {"model": "claude-sonnet-4-6", "max_tokens": 3000, "tools": [WEATHER, CLOCK]}
    answer = client.messages.create(**wanted, messages=HELLO, extra_headers={"x-sim-tools": "2"})
    assert answer.stop_reason == "tool_use"
    assert {block.name for block in answer.content} == {"get_weather", "get_time"}
    weather = next(block for block in answer.content if block.name == "get_weather")
    assert isinstance(weather.input["city"], str)
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": "fine"} for block in answer.content]
    history = [*HELLO, {"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
    words = client.messages.create(**wanted, messages=history)
    assert words.content[0].type == "text"
    with client.messages.stream(**wanted, messages=HELLO, extra_headers={"x-sim-tools": "2"}) as stream:
        streamed = stream.get_final_message()
    assert [block.input for block in streamed.content] == [block.input for block in answer.content]
    assert streamed.usage.output_tokens == answer.usage.output_tokens


def test_a_named_tool_choice_is_obeyed(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(
        model="claude-sonnet-4-6",
        max_tokens=3000,
        tools=[WEATHER, CLOCK],
        tool_choice={"type": "tool", "name": "get_time"},
        messages=HELLO,
    )
    assert [block.name for block in answer.content] == ["get_time"]


def test_thinking_comes_first_and_counts_as_output(client: anthropic.Anthropic) -> None:
    wanted = {
        "model": "claude-haiku-4-5",
        "max_tokens": 8000,
        "messages": HELLO,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    answer = client.messages.create(**wanted)
    thought, text = answer.content
    assert (thought.type, text.type) == ("thinking", "text")
    assert thought.signature
    assert answer.usage.output_tokens_details.thinking_tokens == claude_tokens(thought.thinking)
    raw = count(thought.thinking) + count(text.text)
    assert answer.usage.output_tokens == (raw * 118 + 50) // 100
    with client.messages.stream(**wanted) as stream:
        final = stream.get_final_message()
    assert final.content[0].thinking == thought.thinking
    assert final.content[0].signature == thought.signature


def test_images_cost_by_area(client: anthropic.Anthropic) -> None:
    def ask(content: list[dict[str, object]]) -> int:
        messages = [{"role": "user", "content": content}]
        return client.messages.create(model="claude-sonnet-4-6", max_tokens=1, messages=messages).usage.input_tokens

    text = {"type": "text", "text": "What is this?"}
    picture = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    assert ask([picture, text]) - ask([text]) == -(-1024 * 1024 // 750)


def test_count_tokens_is_free_and_agrees_with_usage(sim: SimServer, client: anthropic.Anthropic) -> None:
    wanted = {"model": "claude-sonnet-4-6", "messages": HELLO, "system": "Be calm.", "tools": [WEATHER]}
    before = len(sim.account.invoice.lines)
    counted = client.messages.count_tokens(**wanted)
    assert len(sim.account.invoice.lines) == before
    answer = client.messages.create(**wanted, max_tokens=10)
    assert answer.usage.input_tokens == counted.input_tokens


def test_models_are_listed_in_anthropics_shape(client: anthropic.Anthropic) -> None:
    names = {model.id for model in client.models.list()}
    assert {"claude-sonnet-4-6", "claude-haiku-4-5-20251001"} <= names
    assert not any(name.startswith("gpt") for name in names)


def test_a_batch_directive_and_us_inference_show_in_usage(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(
        model="claude-sonnet-4-6",
        max_tokens=10,
        messages=HELLO,
        extra_headers={"x-sim-tier": "batch"},
        extra_body={"inference_geo": "us", "metadata": {"user_id": "u-1"}},
    )
    assert answer.usage.service_tier == "batch"
    assert answer.usage.inference_geo == "us"


def test_errors_have_anthropics_shape(sim: SimServer, client: anthropic.Anthropic) -> None:
    billed = len(sim.account.invoice.lines)
    with (
        anthropic.Anthropic(base_url=sim.url, api_key="sk-invalid", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(model="claude-sonnet-4-6", max_tokens=9, messages=HELLO)
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="claude-9", max_tokens=9, messages=HELLO)
    assert missing.value.body["error"]["type"] == "not_found_error"
    for wrong in ({"messages": []}, {"stop_sequences": "x"}, {"service_tier": "gold"}):
        with pytest.raises(anthropic.BadRequestError) as refused:
            client.messages.create(**{"model": "claude-haiku-4-5", "max_tokens": 9, "messages": HELLO, **wrong})
        assert refused.value.body["error"]["type"] == "invalid_request_error"
        assert refused.value.body["request_id"] == refused.value.response.headers["request-id"]
    bare = post(
        f"{sim.url}/v1/messages",
        json={"model": "claude-haiku-4-5", "max_tokens": 9, "messages": HELLO},
        headers={"x-api-key": "sk-ant-test"},
    )
    assert bare.status_code == 400
    assert "anthropic-version" in bare.json()["error"]["message"]
    assert len(sim.account.invoice.lines) == billed


@pytest.mark.parametrize(
    ("fault", "status", "kind"), [("529", 529, "overloaded_error"), ("429", 429, "rate_limit_error")]
)
def test_status_faults_have_anthropics_shape(client: anthropic.Anthropic, fault: str, status: int, kind: str) -> None:
    with pytest.raises(anthropic.APIStatusError) as refused:
        client.messages.create(
            model="claude-haiku-4-5", max_tokens=9, messages=HELLO, extra_headers={"x-sim-fault": fault}
        )
    assert refused.value.status_code == status
    assert refused.value.body["error"]["type"] == kind
