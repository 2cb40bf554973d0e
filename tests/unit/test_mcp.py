"""``farthing mcp`` asked by the official client: in memory, and over the stdio of a process of its own."""

import json
import sys

import pytest

from farthing.cli.context import App
from farthing.cli.mcp import server
from farthing.core.types import Scope
from farthing.testing.practice import NOW_MS, Home
from farthing.testing.records import an_entry


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    home.book(
        [an_entry("a", 5 * 10**9, scope=Scope(feature="rank"), received_at_ms=NOW_MS - 1000),
         an_entry("b", None, scope=Scope(feature="chat"), received_at_ms=NOW_MS - 2000)]
    )  # fmt: skip
    return home


def app(home: Home) -> App:
    made = App(now_ms=lambda: NOW_MS)
    made.home, made.config_path = str(home.folder), str(home.config)
    return made


def client_of(served):
    """The official client; its import takes a second, which not every process of the tests has to spend."""
    from mcp import Client

    return Client(served)


async def ask(home: Home, tool: str, **arguments) -> dict:
    async with client_of(server(app(home))) as client:
        answer = await client.call_tool(tool, arguments)
        assert not answer.is_error, answer.content
        return json.loads(answer.content[0].text)


async def test_every_tool_is_listed_as_read_only(home):
    async with client_of(server(app(home))) as client:
        tools = (await client.list_tools()).tools
    assert {tool.name for tool in tools} == {
        "estimate_cost", "spend", "why_spend_changed", "month_end", "request_cost"
    }  # fmt: skip
    assert all(tool.annotations.read_only_hint for tool in tools)
    assert all(tool.description for tool in tools)


async def test_an_agent_learns_what_a_call_would_cost(home):
    said = await ask(home, "estimate_cost", model="gpt-4o-mini", input_tokens=500, output_tokens=200, calls=1_000_000)
    assert (said["usd"], said["usd_per_call"], said["calls"]) == ("195.000000000", "0.000195000", 1_000_000)
    # a maker that is not configured here has its prices in the book all the same
    long = await ask(home, "estimate_cost", model="gemini-2.5-pro", input_tokens=250_000, output_tokens=1_000)
    assert long["usd"] == "0.640000000"
    assert (await ask(home, "estimate_cost", model="gpt-99", input_tokens=5, output_tokens=2))["usd"] is None


async def test_an_agent_learns_what_was_spent_and_what_a_request_cost(home):
    rows = {row["feature"]: row for row in (await ask(home, "spend", by="feature"))["rows"]}
    assert rows["rank"]["cost_usd"] == "5.000000000"
    assert rows["chat"]["cost_usd"] is None
    assert (await ask(home, "request_cost", request_id="request-a"))["usd"] == "5.000000000"
    assert (await ask(home, "request_cost", request_id="request-b"))["usd"] is None
    assert (await ask(home, "request_cost", request_id="nobody"))["found"] is False
    assert (await ask(home, "why_spend_changed", by="feature"))["total"]["change_nusd"] == 5 * 10**9
    assert (await ask(home, "month_end", by="feature"))["rows"]


async def test_a_question_that_cannot_be_meant_is_an_error_and_not_an_answer(home):
    async with client_of(server(app(home))) as client:
        answer = await client.call_tool("spend", {"by": "colour"})
        late = await client.call_tool("spend", {"since": "2026-13"})
        less = await client.call_tool("estimate_cost", {"model": "gpt-4o", "input_tokens": -5, "output_tokens": 1})
    assert answer.is_error
    assert '"colour" is no dimension' in answer.content[0].text
    assert '"2026-13" is no time' in late.content[0].text
    assert "0 or more" in less.content[0].text


async def test_it_speaks_on_stdio(home):
    from mcp import StdioServerParameters

    command = ["-m", "farthing", "--home", str(home.folder), "--config", str(home.config), "mcp"]
    async with client_of(StdioServerParameters(command=sys.executable, args=command)) as client:
        answer = await client.call_tool("request_cost", {"request_id": "request-a"})
    assert json.loads(answer.content[0].text)["usd"] == "5.000000000"


async def test_an_empty_id_is_no_request_instead_of_all_of_them(home):
    for tool, arguments, said in (
        ("request_cost", {"request_id": ""}, "request_id is empty"),
        ("month_end", {"by": "day"}, "is no dimension"),
        ("why_spend_changed", {"by": "hour"}, "is no dimension"),
    ):
        async with client_of(server(app(home))) as client:
            answer = await client.call_tool(tool, arguments)
        assert answer.is_error
        assert said in answer.content[0].text
    for command in (("receipt", ""), ("trace", ""), ("cache", "explain", "")):
        assert home.run(*command).exit_code != 0
