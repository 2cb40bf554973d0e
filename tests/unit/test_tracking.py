"""``farthing.track`` with the official clients against the simulator, and LangChain's own callback manager."""

import asyncio
import time

import anthropic
import openai
import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

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


def test_what_was_spent_is_booked_although_the_block_fails(home):
    def fail():
        with tracked(home) as one:
            one.add(USAGE, model="gpt-4o-mini")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert len(list(home.ledger.entries())) == 1


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
