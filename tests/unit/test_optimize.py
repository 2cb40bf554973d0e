"""``farthing optimize`` over traffic that the real pipeline served: what it promises, the invoice then saves."""

import asyncio
import json
from functools import cache

import pytest
from click.testing import CliRunner

from farthing import bootstrap, config
from farthing.adapters.sqlite import SqliteBooks
from farthing.adapters.tokenizers import BpeTokenizer
from farthing.cli import main
from farthing.cli.context import App
from farthing.cli.optimize import price_of_app
from farthing.config import parse
from farthing.config.editing import add_section
from farthing.core.errors import ConfigError
from farthing.core.prefix_cache import ANTHROPIC_5M
from farthing.core.types import Scope
from farthing.lab.doctor import Rates
from farthing.lab.optimize import examine
from farthing.lab.optimize_all import tools_of
from farthing.lab.optimize_models import Deferrable, Models
from farthing.lab.optimize_repeats import Repeats, Storms
from farthing.lab.optimize_tokens import Answers, Histories, Instructions, Marks, UnusedTools
from farthing.ports.books import Settlement
from farthing.sim.faults import FaultOrder, FaultRule
from farthing.testing.world import START_MS, Ask, World

PROVIDERS = """
[[providers]]
name = "openai"
api_key_env = "NO_KEY"
base_url = "http://sim/v1"

[[providers]]
name = "anthropic"
api_key_env = "NO_KEY"
base_url = "http://sim/v1"
"""
SYSTEM = " ".join(f"Rule {number}: speak of order {number * 7} in plain words." for number in range(160))
SONNET = Rates(input=3_000_000, read=300_000)
SCOPE = Scope(org="o", feature="chat")


@cache
def shared():
    settings = config.parse(PROVIDERS, env={}, source="t")
    return bootstrap.price_book(settings), BpeTokenizer()


def served(asks, toml="", rules=()):
    prices, tokens = shared()
    world = World(config.parse(toml + PROVIDERS, env={}, source="t"), prices=prices, tokens=tokens)
    if rules:
        world.sim.account.faults.install(FaultOrder(rules=rules, seed=1))
    world.run(asks)
    return world


class _Fixed(App):
    """The settings of the world above."""

    @property
    def settings(self):
        return config.parse(PROVIDERS, env={}, source="t")


def found(world):
    price = price_of_app(_Fixed())
    watchers = (
        Marks(lambda provider, model: SONNET, lambda provider: provider == "anthropic"),
        Repeats(), Storms(), Histories(), Answers(), Instructions(), UnusedTools(tools_of), Models(price),
        Deferrable(price),
    )  # fmt: skip
    log = sorted(world.exchanges(), key=lambda one: one.received_at_ms)
    examined = examine(log, watchers, price, now_ms=START_MS + 86_400_000)
    assert examined.nusd == sum(one.charge.total for entries in world.entries().values() for one in entries)
    return {one.name: one for one in examined.opportunities}


def gpt(at, text, *, model="gpt-4o", scope=SCOPE, tokens=40, **fields):
    turns = text if isinstance(text, list) else [{"role": "user", "content": f"{text} [sim: tokens={tokens}]"}]
    return Ask(at_ms=at, body={"model": model, "messages": turns, **fields}, scope=scope)


def claude(at, turns, **fields):
    body = {"model": "claude-sonnet-4-5", "max_tokens": 50, "messages": turns, **fields}
    headers = ((b"anthropic-version", b"2023-06-01"),)
    return Ask(at_ms=at, body=body, dialect="anthropic", endpoint="messages", headers=headers, scope=SCOPE)


def test_what_equal_calls_cost_is_what_the_exact_cache_then_saves():
    asks = [gpt(n * 10_000, f"question {n % 4}") for n in range(40)]
    asks += [gpt(500_000 + n, f"question {n}", scope=Scope(org="p")) for n in range(4)]  # of another caller
    plain = served(asks)
    one = found(plain)["exact_cache"]
    assert (one.sure, one.requests) == ("exact", 36)
    cached = served(asks, '[[cache]]\nname = "repeated"\nttl = "1h"\n')
    assert one.nusd == plain.billed() - cached.billed()
    assert "exact_cache" not in found(cached)


def test_equal_calls_hours_apart_are_no_repeats():
    plain = served([gpt(n * 3_600_000, "again") for n in range(5)])
    assert "exact_cache" not in found(plain)


def test_marks_promise_what_they_then_save():
    asks = [claude(n * 60_000, [{"role": "user", "content": f"question {n}"}], system=SYSTEM) for n in range(30)]
    plain = served(asks)
    one = found(plain)["provider_caching"]
    assert one.change.values["ttl"] == ANTHROPIC_5M.name
    always = served(asks, '[[levers]]\nkind = "cache_breakpoints"\nreuse = "always"\n')
    seen = served(asks, '[[levers]]\nkind = "cache_breakpoints"\n')
    assert one.nusd == pytest.approx(plain.billed() - always.billed(), rel=0.05)
    assert one.nusd == pytest.approx(plain.billed() - seen.billed(), rel=0.08)
    assert "provider_caching" not in found(seen)


def test_nothing_is_promised_for_prompts_that_come_once():
    asks = [claude(n * 60_000, [{"role": "user", "content": f"{n} {SYSTEM}"}]) for n in range(10)]
    assert "provider_caching" not in found(served(asks))


def test_calls_that_can_wait_cost_half_in_a_batch():
    tagged = Scope(org="o", tags=(("deferrable", "yes"),))
    asks = [gpt(n, f"job {n}", scope=tagged) for n in range(10)] + [
        gpt(n, f"user {n}", stream=True) for n in range(50)
    ]
    world = served(asks)
    one = found(world)["batch"]
    paid = sum(e[0].charge.total for e in world.entries().values() if e[0].scope == tagged)
    assert (one.requests, one.sure, one.change) == (10, "repriced", None)
    assert abs(2 * one.nusd - paid) <= 40


def test_bursts_without_anybody_waiting_are_jobs_and_users_calls_are_not():
    job = [gpt(n * 1_000, f"row {n}") for n in range(40)]
    users = [gpt(n * 1_000, f"hi {n}", scope=Scope(org="o", user="ada")) for n in range(40)]
    assert found(served(job + users))["batch"].requests == 40


def test_a_cheaper_model_is_an_upper_bound_and_needs_an_eval():
    asks = [gpt(n * 1_000, f"a {n}", tokens=100) for n in range(30)]
    asks += [gpt(n * 1_000, f"b {n}", model="gpt-4o-mini", tokens=100) for n in range(30)]
    names = found(served(asks))
    one = names["cheaper_model:gpt-4o"]
    assert (one.risk, one.change) == ("high", None)
    assert "eval" in one.try_
    mini = served([gpt(n * 1_000, f"a {n}", model="gpt-4o-mini", tokens=100) for n in range(30)]).billed()
    large = served([gpt(n * 1_000, f"a {n}", tokens=100) for n in range(30)]).billed()
    assert one.nusd == pytest.approx(large - mini, rel=0.02)
    assert "cheaper_model:gpt-4o-mini" not in names


def test_long_answers_are_worth_what_a_cap_would_cut():
    asks = [gpt(n * 1_000, f"q {n}", tokens=2_000 if n % 25 == 0 else 50) for n in range(100)]
    plain = served(asks)
    (one,) = [one for name, one in found(plain).items() if name.startswith("output_length")]
    text = add_section(PROVIDERS, one.change.section, one.change.values, source="t")
    capped = served(asks, text.removeprefix(PROVIDERS))
    assert one.nusd == pytest.approx(plain.billed() - capped.billed(), rel=0.02)
    assert one.requests == 4


def loop(n):
    turns = [{"role": "user", "content": "go [sim: tokens=10]"}]
    for place in range(n):
        call = {"id": f"c{place}", "type": "function", "function": {"name": "find", "arguments": "{}"}}
        turns += [{"role": "assistant", "content": None, "tool_calls": [call]}]
        turns += [{"role": "tool", "tool_call_id": f"c{place}", "content": f"row {place}"}]
    return turns


def tool(name):
    about = "Does it with great care. " * 30
    return {"type": "function", "function": {"name": name, "description": about, "parameters": {"type": "object"}}}


def test_calls_after_many_tool_calls_are_a_storm():
    asks = [gpt(n * 1_000, loop(n), tools=[tool("find")]) for n in range(15)]
    world = served(asks)
    one = found(world)["tool_call_storms"]
    assert one.requests == 5
    assert one.nusd == sum(world.entries()[f"r{n:05d}"][0].charge.total for n in range(10, 15))


def test_paid_calls_that_repeat_failures_are_a_loop():
    asks = [gpt(n * 30_000, "once more", stream=True) for n in range(8)]
    world = served(asks, "[retries]\nattempts_max = 1\n", rules=(FaultRule(fault="cut:2"),))
    one = found(world)["retry_loops"]
    assert one.requests == 6
    assert one.change is None


def test_long_histories_and_long_instructions_are_told_apart():
    turns = []
    for n in range(40):
        turns += [{"role": "user", "content": f"{n} " + "word " * 300}, {"role": "assistant", "content": "so " * 300}]
    long = [gpt(n * 1_000, [*turns, {"role": "user", "content": f"{n} [sim: tokens=9]"}]) for n in range(3)]
    names = found(served(long))
    assert names["context_accumulation"].requests == 3
    assert not [name for name in names if name.startswith("system_prompt")]
    wordy = [
        gpt(n * 1_000, [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{n} [sim: tokens=9]"}])
        for n in range(60)
    ]
    names = found(served(wordy))
    assert "context_accumulation" not in names
    assert names["system_prompt:chat"].sure == "estimated"


def test_tools_that_are_never_called_need_the_text_to_be_found():
    asks = [gpt(n * 1_000, loop(1), tools=[tool("find"), tool("rare")], user=f"u{n}") for n in range(55)]
    assert "unused_tools" not in found(served(asks))
    prices, tokens = shared()
    world = World(config.parse('[exchange_log]\ntext = "full"\n' + PROVIDERS, env={}, source="t"),
                  prices=prices, tokens=tokens)  # fmt: skip
    world.recorder._text = "full"
    world.run(asks)
    one = found(world)["unused_tools"]
    assert one.change.values["tools"] == ["rare"]


async def kept(path, exchanges):
    books = SqliteBooks(path, worker="test")
    await books.start()
    for exchange in exchanges:
        settlement = Settlement(reservation=None, entries=(), exchange=exchange)
        await books.settle(settlement, now_ms=exchange.received_at_ms)
    await books.close()


@pytest.fixture
def home(tmp_path):
    """An installation whose log has repeats and prompts without marks."""
    file = tmp_path / "farthing.toml"
    file.write_text("# Mine.\n" + PROVIDERS)
    asks = [gpt(n * 10_000, f"question {n % 4}") for n in range(40)]
    asks += [claude(n * 60_000, [{"role": "user", "content": f"q {n}"}], system=SYSTEM) for n in range(10)]
    world = served(asks)
    asyncio.run(kept(tmp_path / "farthing.db", world.exchanges()))
    return tmp_path


def run(home, *words):
    app = App(now_ms=lambda: START_MS + 86_400_000)
    return CliRunner().invoke(main, ["--home", str(home), "--config", str(home / "farthing.toml"), *words], obj=app)


def test_the_command_ranks_applies_and_takes_back(home):
    file = home / "farthing.toml"
    before = file.read_text()
    listed = run(home, "optimize", "--format", "json")
    assert listed.exit_code == 0, listed.output
    rows = json.loads(listed.output)["rows"]
    amounts = [row["usd_per_month_nusd"] for row in rows]
    assert [row["opportunity"] for row in rows][:1] == ["provider_caching"]
    assert amounts == sorted(amounts, reverse=True)
    shown = run(home, "optimize", "--apply", "provider_caching", "--dry-run")
    assert '+kind = "cache_breakpoints"' in shown.output
    assert file.read_text() == before
    assert run(home, "optimize", "--apply", "provider_caching").exit_code == 0
    assert run(home, "optimize", "--apply", "exact_cache").exit_code == 0
    policy = parse(file.read_text(), env={"HOME": "/h"}, source="t").policy
    assert [one.ttl for one in policy.levers] == ["5m"]
    assert [one.name for one in policy.cache] == ["repeated"]
    assert run(home, "undo").exit_code == 0
    assert run(home, "undo").exit_code == 0
    assert file.read_text() == before
    assert run(home, "undo").exit_code == 1


def test_a_file_that_was_edited_since_is_not_overwritten(home):
    file = home / "farthing.toml"
    assert run(home, "optimize", "--apply", "exact_cache").exit_code == 0
    file.write_text(file.read_text() + "# by hand\n")
    after = file.read_text()
    refused = run(home, "undo")
    assert refused.exit_code == 1
    assert "changed since" in refused.output
    assert file.read_text() == after


def test_what_is_no_setting_is_not_applied(home):
    assert "can be applied" in run(home, "optimize", "--apply", "nothing").output
    assert run(home, "optimize", "--dry-run").exit_code == 2


def test_a_section_is_added_only_where_it_means_what_it_says():
    assert add_section("", "levers", {"kind": "x"}, source="t") == '[[levers]]\nkind = "x"\n'
    for text in ("levers = []\n", "[levers]\na = 1\n"):
        with pytest.raises(ConfigError, match="by hand"):
            add_section(text, "levers", {"kind": "x"}, source="t")
