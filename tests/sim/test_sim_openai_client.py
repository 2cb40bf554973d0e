"""The official OpenAI client against the simulator: every endpoint, sync and async, streamed and not."""

import base64
import json
import math
import struct
import zlib
from collections.abc import Iterator

import openai
import pydantic
import pytest

from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.sim.tokens import count

HELLO = [{"role": "user", "content": "Say something about harbours."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def sim() -> Iterator[SimServer]:
    with SimServer(SimSettings()) as server:
        yield server


@pytest.fixture
def client(sim: SimServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{sim.url}/v1", api_key="sk-test", max_retries=0) as made:
        yield made


def png(width: int, height: int) -> str:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk).decode()


def test_a_chat_completion_counts_its_prompt_by_the_published_recipe(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    expected = 3 + count("user") + count(HELLO[0]["content"]) + 3
    assert answer.usage.prompt_tokens == expected
    assert answer.usage.completion_tokens == count(answer.choices[0].message.content)
    assert answer.usage.total_tokens == expected + answer.usage.completion_tokens
    assert answer.model == "gpt-4o-2024-08-06"
    assert answer.service_tier == "default"
    assert answer.choices[0].finish_reason == "stop"


def test_a_stream_says_the_same_words_and_carries_usage_only_when_asked(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    asked = list(
        client.chat.completions.create(
            model="gpt-4o", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    silent = list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in asked if chunk.choices)
    assert text == plain.choices[0].message.content
    assert asked[-1].choices == []
    assert asked[-1].usage == plain.usage
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in asked[:-1])
    assert all("usage" not in chunk.model_fields_set for chunk in silent)
    assert silent[-1].choices[0].finish_reason == "stop"


async def test_the_async_client_is_served_too(sim: SimServer) -> None:
    async with openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="sk-test", max_retries=0) as client:
        answer = await client.chat.completions.create(model="gpt-4.1-mini", messages=HELLO)
        stream = await client.chat.completions.create(model="gpt-4.1-mini", messages=HELLO, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == answer.choices[0].message.content


def test_a_cap_cuts_the_answer_at_exactly_that_many_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=7)
    assert answer.usage.completion_tokens == 7
    assert answer.choices[0].finish_reason == "length"


def test_a_stop_sequence_ends_the_answer_before_itself(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="gpt-4o", messages=HELLO).choices[0].message.content
    word = whole.split()[3]
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO, stop=[word])
    assert answer.choices[0].message.content == whole[: whole.index(word)]
    assert answer.choices[0].finish_reason == "stop"


def test_n_choices_differ_and_are_all_billed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, n=3)
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3
    assert answer.usage.completion_tokens == sum(count(text) for text in texts)


def test_the_same_seed_and_nonce_give_the_same_answer_and_others_do_not(client: openai.OpenAI) -> None:
    def say(seed: int, nonce: str = "") -> str:
        headers = {"x-sim-nonce": nonce} if nonce else {}
        answer = client.chat.completions.create(model="gpt-4o", messages=HELLO, seed=seed, extra_headers=headers)
        return answer.choices[0].message.content

    assert say(1) == say(1)
    assert say(1) != say(2)
    assert say(1, "a") == say(1, "a")
    assert say(1, "a") != say(1)


def test_the_simulators_own_seed_changes_answers() -> None:
    texts = []
    for seed in (0, 0, 1):
        with (
            SimServer(SimSettings(seed=seed)) as sim,
            openai.OpenAI(base_url=f"{sim.url}/v1", api_key="sk-test", max_retries=0) as client,
        ):
            answer = client.chat.completions.create(model="gpt-4o", messages=HELLO)
            texts.append((answer.choices[0].message.content, answer.id))
    assert texts[0][0] == texts[1][0] != texts[2][0]
    assert len({identity for _, identity in texts}) == 3


def test_tools_are_called_in_parallel_with_arguments_that_fit_their_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o", messages=HELLO, tools=[WEATHER, CLOCK], extra_headers={"x-sim-tools": "2"}
    )
    calls = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert {call.function.name for call in calls} == {"get_weather", "get_time"}
    weather = next(call for call in calls if call.function.name == "get_weather")
    arguments = json.loads(weather.function.arguments)
    assert isinstance(arguments["city"], str)
    assert arguments["unit"] in ("celsius", "fahrenheit")
    assert len({call.id for call in calls}) == 2


def test_streamed_tool_calls_add_up_to_the_plain_ones(client: openai.OpenAI) -> None:
    wanted = {"model": "gpt-4o", "messages": HELLO, "tools": [WEATHER, CLOCK], "extra_headers": {"x-sim-tools": "2"}}
    plain = client.chat.completions.create(**wanted)
    with client.chat.completions.stream(**wanted, stream_options={"include_usage": True}) as stream:
        final = stream.get_final_completion()
    assert [call.function.arguments for call in final.choices[0].message.tool_calls] == [
        call.function.arguments for call in plain.choices[0].message.tool_calls
    ]
    assert final.usage == plain.usage


def test_a_tool_result_is_answered_in_words_and_tool_choice_is_obeyed(client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    history = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    answer = client.chat.completions.create(model="gpt-4o", messages=history, tools=[WEATHER, CLOCK])
    assert answer.choices[0].message.content
    named = {"type": "function", "function": {"name": "get_time"}}
    forced = client.chat.completions.create(model="gpt-4o", messages=HELLO, tools=[WEATHER, CLOCK], tool_choice=named)
    assert [made.function.name for made in forced.choices[0].message.tool_calls] == ["get_time"]
    none = client.chat.completions.create(model="gpt-4o", messages=HELLO, tools=[WEATHER], tool_choice="none")
    assert none.choices[0].message.tool_calls is None


class Step(pydantic.BaseModel):
    explanation: str
    weight: float
    children: "list[Step]"


class Plan(pydantic.BaseModel):
    title: str
    steps: list[Step]
    risk: int | None


def test_parse_yields_objects_that_satisfy_a_recursive_schema(client: openai.OpenAI) -> None:
    for nonce in "abcdef":
        answer = client.chat.completions.parse(
            model="gpt-4o", messages=HELLO, response_format=Plan, extra_headers={"x-sim-nonce": nonce}
        )
        assert isinstance(answer.choices[0].message.parsed, Plan)


def test_json_mode_answers_with_an_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO, response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


@pytest.mark.parametrize(
    ("size", "detail", "tokens"),
    [((512, 512), "high", 255), ((1024, 1024), "high", 765), ((2048, 4096), "high", 1105), ((4096, 8192), "low", 85)],
)
def test_images_cost_what_the_tile_formula_says(
    client: openai.OpenAI, size: tuple[int, int], detail: str, tokens: int
) -> None:
    def ask(content: list[dict[str, object]]) -> int:
        messages = [{"role": "user", "content": content}]
        return client.chat.completions.create(model="gpt-4o", messages=messages, max_tokens=1).usage.prompt_tokens

    text = {"type": "text", "text": "What is this?"}
    picture = {"type": "image_url", "image_url": {"url": png(*size), "detail": detail}}
    assert ask([text, picture]) - ask([text]) == tokens


def test_logprobs_cover_every_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o", messages=HELLO, logprobs=True, top_logprobs=1, max_tokens=12
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 12
    assert "".join(item.token for item in content) == answer.choices[0].message.content
    assert all(item.logprob <= 0 for item in content)


@pytest.mark.parametrize("model", ["o4-mini", "gpt-5", "gpt-5-mini", "gpt-5.4"])
def test_reasoning_models_bill_hidden_tokens_inside_their_output(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=HELLO)
    hidden = answer.usage.completion_tokens_details.reasoning_tokens
    assert hidden > 0
    assert answer.usage.completion_tokens == hidden + count(answer.choices[0].message.content)
    starved = client.chat.completions.create(model=model, messages=HELLO, max_completion_tokens=5)
    assert starved.usage.completion_tokens == starved.usage.completion_tokens_details.reasoning_tokens == 5
    assert starved.choices[0].message.content == ""
    quiet = client.chat.completions.create(model=model, messages=HELLO, extra_body={"reasoning_effort": "none"})
    assert quiet.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize(
    ("model", "asked", "headers", "served"),
    [
        ("gpt-5", "auto", {}, "default"),
        ("gpt-5", "default", {}, "default"),
        ("gpt-5", "flex", {}, "flex"),
        ("gpt-5", "flex", {"x-sim-tier": "default"}, "default"),
        ("gpt-5", "priority", {}, "priority"),
        ("gpt-5", "fast", {}, "priority"),
        ("gpt-4o", "flex", {}, "default"),
        ("gpt-5-nano", "priority", {}, "default"),
    ],
)
def test_the_answer_names_the_tier_it_was_served_at(
    sim: SimServer, client: openai.OpenAI, model: str, asked: str, headers: dict[str, str], served: str
) -> None:
    answer = client.chat.completions.create(
        model=model, messages=HELLO, extra_body={"service_tier": asked}, extra_headers=headers
    )
    assert answer.service_tier == served
    assert sim.account.invoice.lines[-1].tier == served


def test_completions_take_strings_and_token_arrays(client: openai.OpenAI) -> None:
    text = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Once upon a time")
    assert text.usage.prompt_tokens == count("Once upon a time", "cl100k")
    assert text.usage.completion_tokens <= 16
    ids = client.completions.create(model="gpt-3.5-turbo-instruct", prompt=[[1, 2, 3], [4, 5]], max_tokens=3, n=2)
    assert ids.usage.prompt_tokens == 5
    assert len(ids.choices) == 4
    chunks = list(
        client.completions.create(
            model="gpt-3.5-turbo-instruct",
            prompt="Once upon a time",
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == text.choices[0].text
    assert chunks[-1].usage == text.usage


def test_embeddings_are_unit_vectors_and_near_for_near_texts(client: openai.OpenAI) -> None:
    texts = ["How do I reset my password?", "How can I reset my password?", "Shipping to Norway takes a week"]
    made = client.embeddings.create(model="text-embedding-3-small", input=texts, encoding_format="float")
    near, also, far = (item.embedding for item in made.data)
    assert made.usage.prompt_tokens == sum(count(text, "cl100k") for text in texts)
    assert len(near) == 1536
    assert math.isclose(sum(value * value for value in near), 1.0, rel_tol=1e-5)

    def cosine(left: list[float], right: list[float]) -> float:
        return sum(a * b for a, b in zip(left, right, strict=True))

    assert cosine(near, also) > 0.5 > cosine(near, far)


def test_embeddings_in_base64_equal_those_in_floats_and_honour_dimensions(client: openai.OpenAI) -> None:
    # The client asks for base64 when no format is given, and decodes it.
    packed = client.embeddings.create(model="text-embedding-3-large", input="tide", dimensions=256)
    plain = client.embeddings.create(
        model="text-embedding-3-large", input="tide", dimensions=256, encoding_format="float"
    )
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-7)
    assert len(packed.data[0].embedding) == 256
    ids = client.embeddings.create(model="text-embedding-3-large", input=[[5, 6, 7]])
    assert ids.usage.prompt_tokens == 3


def test_a_response_and_its_stream_agree(client: openai.OpenAI) -> None:
    plain = client.responses.create(
        model="gpt-5-mini", input="Say something about harbours.", instructions="Be calm."
    )
    with client.responses.stream(
        model="gpt-5-mini", input="Say something about harbours.", instructions="Be calm."
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert plain.status == final.status == "completed"
    assert final.output_text == plain.output_text
    assert final.usage == plain.usage
    assert plain.usage.output_tokens == plain.usage.output_tokens_details.reasoning_tokens + count(plain.output_text)
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"


def test_a_response_cut_by_its_cap_is_incomplete_and_still_reports_usage(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="gpt-4o", input="Explain tides in detail.", max_output_tokens=16)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage.output_tokens == 16


async def test_async_responses_call_functions(sim: SimServer) -> None:
    tool = {
        "type": "function",
        "name": "get_time",
        "parameters": {"type": "object", "properties": {}},
        "strict": False,
    }
    async with openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="sk-test", max_retries=0) as client:
        answer = await client.responses.create(model="gpt-4o", input="What time is it?", tools=[tool])
        call = next(item for item in answer.output if item.type == "function_call")
        history = [
            {"role": "user", "content": "What time is it?"},
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
            {"type": "function_call_output", "call_id": call.call_id, "output": "noon"},
        ]
        words = await client.responses.create(model="gpt-4o", input=history, tools=[tool])
    assert call.name == "get_time"
    assert words.output_text


def test_models_are_listed_and_found_by_either_name(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {"gpt-4o", "gpt-4o-2024-08-06", "text-embedding-3-small"} <= names
    assert not any(name.startswith("claude") for name in names)
    assert client.models.retrieve("gpt-5").id == "gpt-5-2025-08-07"


def test_errors_have_openais_shape(sim: SimServer, client: openai.OpenAI) -> None:
    billed = len(sim.account.invoice.lines)
    with openai.OpenAI(base_url=f"{sim.url}/v1", api_key="sk-invalid", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="claude-sonnet-4-6", messages=HELLO)
    for wrong in ({"messages": []}, {"max_tokens": 0}, {"n": 1000}, {"stop": 3}, {"service_tier": "gold"}):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**{"model": "gpt-4o", "messages": HELLO, **wrong})
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="gpt-3.5-turbo-instruct", prompt=[[1] * 5000])
    assert long.value.code == "context_length_exceeded"
    assert len(sim.account.invoice.lines) == billed


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("429:retry-after=7", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("503", openai.InternalServerError),
        ("401", openai.AuthenticationError),
        ("403", openai.PermissionDeniedError),
    ],
)
def test_status_faults_are_free_and_have_openais_shape(
    sim: SimServer, client: openai.OpenAI, fault: str, error: type[openai.APIStatusError]
) -> None:
    billed = len(sim.account.invoice.lines)
    with pytest.raises(error) as refused:
        client.chat.completions.create(model="gpt-4o", messages=HELLO, extra_headers={"x-sim-fault": fault})
    assert refused.value.body["message"]
    assert refused.value.response.headers["x-request-id"]
    if fault.startswith("429"):
        assert refused.value.response.headers["retry-after"] == "7"
        assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(sim.account.invoice.lines) == billed


def test_a_directive_in_the_prompt_works_where_headers_do_not_reach(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Count. [sim: tokens=33]"}]
    assert client.chat.completions.create(model="gpt-4o", messages=messages).usage.completion_tokens == 33
    history = [*messages, {"role": "assistant", "content": "One."}, {"role": "user", "content": "Explain tides."}]
    assert client.chat.completions.create(model="gpt-4o", messages=history).usage.completion_tokens != 33
    with pytest.raises(openai.BadRequestError, match="unknown simulator directive"):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "[sim: token=3]"}])
