"""``farthing.track`` with the official clients against the simulator, and LangChain's own callback manager."""

import asyncio
import time

import anthropic
import openai
import pytest

import farthing
from farthing.sim.server import SimServer
from farthing.testing.practice import Home
from farthing.tracking import LangChainTracker

USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path, now_ms=time.time_ns() // 1_000_000 + 3_600_000)  # calls are booked by the real clock


def tracked(home: Home, **scope: str):
    return farthing.track(home=str(home.folder), config=str(home.config), strict=True, **scope)


def test_calls_of_the_official_clients_are_booked_with_their_scope(home):
    with SimServer() as sim:
        ask = [{"role": "user", "content": "Hi"}]
        with tracked(home, team="support", feature="answers") as one:
            with openai.OpenAI(base_url=f"{sim.url}/v1", api_key="sk-sim") as client:
                one.add(client.chat.completions.create(model="gpt-4o-mini", messages=ask, max_tokens=20))
            with anthropic.Anthropic(base_url=sim.url, api_key="sk-sim") as client:
                one.add(client.messages.create(model="claude-haiku-4-5", messages=ask, max_tokens=20))
    rows = home.json("report", "--by", "team,feature,provider")["rows"]
    assert {(row["team"], row["feature"], row["provider"]) for row in rows} == {
        ("support", "answers", "openai"), ("support", "answers", "anthropic")
    }  # fmt: skip
    assert sum(row["cost_nusd"] for row in rows) == one.cost > 0


def test_a_decorated_function_is_booked_each_time_also_when_awaited(home):
    @tracked(home, feature="f")
    def plain():
        return {"model": "gpt-4o-mini", "usage": USAGE}

    @tracked(home, feature="f")
    async def awaited():
        return {"model": "gpt-4o-mini", "usage": USAGE}

    plain(), plain()
    asyncio.run(awaited())
    (row,) = home.json("report", "--by", "feature")["rows"]
    assert (row["requests"], row["cost_nusd"]) == (3, 3 * (1000 * 150 + 100 * 600))


def test_the_tier_that_served_is_the_tier_that_is_priced(home):
    with tracked(home) as one:
        charge = one.add({"model": "gpt-4o", "usage": USAGE, "service_tier": "priority"})
        assert charge.total == 1000 * 4250 + 100 * 17000
        list(one.stream(iter([{"model": "gpt-4o", "service_tier": "priority"}, {"model": "gpt-4o", "usage": USAGE}])))
        assert one.cost == 2 * charge.total


def test_what_was_spent_is_booked_although_the_block_fails(home):
    def fail():
        with tracked(home) as one:
            one.add(USAGE, model="gpt-4o-mini")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert len(list(home.ledger.entries())) == 1


OPENAI_CHUNKS = [
    {"id": "c-1", "model": "gpt-4o-mini", "choices": [{"delta": {"content": "Hi"}}], "usage": None},
    {"id": "c-1", "model": "gpt-4o-mini", "choices": [], "usage": USAGE},
]
CLAUDE_EVENTS = [
    {"type": "message_start", "message": {"id": "m-1", "model": "claude-haiku-4-5", "usage": {
        "input_tokens": 1000, "cache_read_input_tokens": 500, "output_tokens": 1}}},
    {"type": "content_block_delta", "delta": {"text": "Hi"}},
    {"type": "message_delta", "usage": {"output_tokens": 100}},
    {"type": "message_stop"},
]  # fmt: skip
CHUNKS_NUSD, EVENTS_NUSD = 1000 * 150 + 100 * 600, 1000 * 1000 + 500 * 100 + 100 * 5000


async def later(chunks):
    for chunk in chunks:
        yield chunk


def test_streams_are_passed_on_and_counted_when_they_end(home):
    with tracked(home, feature="s") as one:
        assert list(one.stream(iter(OPENAI_CHUNKS))) == OPENAI_CHUNKS
        assert list(one.stream(iter(CLAUDE_EVENTS))) == CLAUDE_EVENTS

        async def read():
            return [chunk async for chunk in one.stream(later(CLAUDE_EVENTS))]

        assert asyncio.run(read()) == CLAUDE_EVENTS
    assert one.cost == CHUNKS_NUSD + 2 * EVENTS_NUSD
    (row,) = home.json("report", "--by", "feature")["rows"]
    assert (row["entries"], row["cost_nusd"], row["estimated_nusd"]) == (3, one.cost, 0)


def test_a_stream_that_is_broken_off_is_booked_as_far_as_it_told_and_called_partial(home):
    with tracked(home) as one:
        for event in one.stream(iter(CLAUDE_EVENTS)):
            if event["type"] == "content_block_delta":
                break
    told = 1000 * 1000 + 500 * 100 + 1 * 5000
    (row,) = home.json("report", "--by", "source")["rows"]
    assert (row["source"], row["cost_nusd"], row["estimated_nusd"]) == ("partial", told, told)


def test_decorated_functions_may_yield_or_return_streams(home):
    @tracked(home)
    def yields():
        yield from OPENAI_CHUNKS

    @tracked(home)
    async def yields_later():
        for chunk in OPENAI_CHUNKS:
            yield chunk

    @tracked(home)
    def returns():
        return iter(OPENAI_CHUNKS)

    async def read():
        return [chunk async for chunk in yields_later()]

    assert [*yields()] == [*returns()] == asyncio.run(read()) == OPENAI_CHUNKS
    (row,) = home.json("report", "--by", "")["rows"]
    assert (row["entries"], row["cost_nusd"]) == (3, 3 * CHUNKS_NUSD)


def test_streams_of_the_official_clients_are_counted(home):
    ask = [{"role": "user", "content": "Hi"}]
    with SimServer() as sim, tracked(home) as one:
        with openai.OpenAI(base_url=f"{sim.url}/v1", api_key="sk-sim") as client:
            told = {"stream": True, "stream_options": {"include_usage": True}}
            stream = client.chat.completions.create(model="gpt-4o-mini", messages=ask, max_tokens=20, **told)
            assert sum(len(chunk.choices) for chunk in one.stream(stream)) > 1
        with anthropic.Anthropic(base_url=sim.url, api_key="sk-sim") as client:
            stream = client.messages.create(model="claude-haiku-4-5", messages=ask, max_tokens=20, stream=True)
            with one.stream(stream) as events:
                assert [event.type for event in events][-1] == "message_stop"
    rows = home.json("report", "--by", "provider,source")["rows"]
    assert {(row["provider"], row["source"]) for row in rows} == {("openai", "reported"), ("anthropic", "reported")}
    assert sum(row["cost_nusd"] for row in rows) == one.cost > 0


def test_an_answer_that_nobody_can_count_reaches_its_caller(home, caplog):
    @farthing.track(home=str(home.folder), config=str(home.config))
    def text():
        return "forty-two"

    assert text() == "forty-two"
    assert "(str) has no usage and model" in caplog.text
    strict = tracked(home)
    with pytest.raises(TypeError, match="cannot be booked"):
        strict(lambda: "forty-two")()


def test_the_cost_is_that_of_all_blocks_and_each_call_is_booked_once(home):
    one = tracked(home)
    for _ in range(2):
        with one:
            one.add(USAGE, model="gpt-4o-mini")
            assert one.book() == 1
            one.add(USAGE, model="gpt-4o-mini")
    assert one.cost == 4 * CHUNKS_NUSD
    (row,) = home.json("report", "--by", "")["rows"]
    assert (row["entries"], row["cost_nusd"]) == (4, one.cost)


def test_an_unknown_price_is_unknown_and_booked_as_such(home):
    with tracked(home) as one:
        one.add(USAGE, model="mystery-9")
    assert one.cost is None
    (entry,) = home.ledger.entries()
    assert entry.charge.state == "unpriced"


def test_books_that_cannot_be_written_stop_nobody_unless_they_should(tmp_path, caplog):
    file = tmp_path / "taken"
    file.write_text("", encoding="utf-8")
    with farthing.track(home=str(file / "home")) as one:
        one.add(USAGE, model="gpt-4o-mini")
    assert "could not be booked" in caplog.text
    with pytest.raises(farthing.tracking.FarthingError), farthing.track(home=str(file / "home"), strict=True) as one:
        one.add(USAGE, model="gpt-4o-mini")


def test_words_that_mean_nothing_are_refused(home):
    with pytest.raises(TypeError, match="tema"):
        farthing.track(tema="x")
    with pytest.raises(TypeError, match="usage"):
        tracked(home).add("text")


def test_langchain_calls_the_handler_and_its_usage_is_booked(home):
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage

    message = AIMessage(
        content="Hello",
        usage_metadata={"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100,
                        "input_token_details": {"cache_read": 600}},
        response_metadata={"model_name": "gpt-4o-mini"},
    )  # fmt: skip
    model = GenericFakeChatModel(messages=iter([message]))
    with tracked(home, feature="chain") as one:
        model.invoke("Hi", config={"callbacks": [LangChainTracker(one)]})
    (row,) = home.json("report", "--by", "feature")["rows"]
    assert (row["feature"], row["cached_tokens"]) == ("chain", 600)
    assert row["cost_nusd"] == 400 * 150 + 600 * 75 + 100 * 600


def test_langchains_completions_and_old_chat_models_are_counted_by_the_whole_call(home, caplog):
    from langchain_core.outputs import Generation, LLMResult

    said = {"token_usage": USAGE, "model_name": "gpt-4o-mini"}
    texts = [[Generation(text="a")], [Generation(text="b")]]
    with tracked(home) as one:
        LangChainTracker(one).on_llm_end(LLMResult(generations=texts, llm_output=said))
        LangChainTracker(one).on_llm_end(LLMResult(generations=texts))
    assert one.cost == CHUNKS_NUSD
    assert "an unnamed model reports no usage" in caplog.text


@pytest.mark.parametrize(
    "details",
    [
        {"cache_read": 1000, "cache_creation": 3000},
        {
            "cache_read": 1000,
            "cache_creation": 0,
            "ephemeral_5m_input_tokens": 1000,
            "ephemeral_1h_input_tokens": 2000,
        },
    ],
)
def test_langchains_usage_is_the_same_for_every_provider(home, details):
    """Claude behind LangChain: its input holds the cached tokens, unlike the provider's own."""
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage

    message = AIMessage(
        content="Hello",
        usage_metadata={"input_tokens": 5000, "output_tokens": 80, "total_tokens": 5080,
                        "input_token_details": details, "output_token_details": {"reasoning": 30}},
        response_metadata={"model_name": "claude-sonnet-4-5"},
    )  # fmt: skip
    with tracked(home, feature="chain") as one:
        GenericFakeChatModel(messages=iter([message])).invoke("Hi", config={"callbacks": [LangChainTracker(one)]})
    written = 1000 * 3750 + 2000 * 6000 if "ephemeral_1h_input_tokens" in details else 3000 * 3750
    (row,) = home.json("report", "--by", "feature")["rows"]
    assert (row["input_tokens"], row["unpriced"]) == (5000, 0)
    assert row["cost_nusd"] == 1000 * 3000 + 1000 * 300 + written + 80 * 15_000
