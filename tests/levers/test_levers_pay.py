"""Levers at work in front of the simulated provider, whose invoice says what they really save."""

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise

import msgspec
import pytest

from farthing import bootstrap, config
from farthing.adapters.tokenizers import BpeTokenizer
from farthing.core.types import Scope, Usage
from farthing.engine.levers import Levers
from farthing.engine.summaries import Summaries
from farthing.lab.replay import replay
from farthing.sim.faults import FaultOrder, FaultRule
from farthing.testing.world import Ask, World

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
BREAKPOINTS = '[[levers]]\nkind = "cache_breakpoints"\n'
HOUR = BREAKPOINTS + 'ttl = "1h"\n'
TRIM = '[[levers]]\nkind = "trim_history"\nabove_tokens = 3000\nto_tokens = 800\nturns_expected = 3\n'
COMPACT = '[[levers]]\nkind = "compact_json"\n'
DEDUPE = '[[levers]]\nkind = "dedupe_blocks"\nbytes_min = 300\n'
PRUNE = '[[levers]]\nkind = "prune_tools"\ntools = ["rare_*"]\n'
SUMMARY = (
    '[[levers]]\nkind = "history_summary"\nmodel = "gpt-4o-mini"\nabove_tokens = 3000\nto_tokens = 800\n'
    "tokens = 200\nturns_expected = 8\n"
)
STRICT = SUMMARY.replace("turns_expected = 8", "turns_expected = 1")
PRUNING = '[[levers]]\nkind = "extractive_pruning"\nevaluated = "t"\nabove_tokens = 300\nto_tokens = 150\n'
CALLS = '[[levers]]\nkind = "max_tool_calls"\ncalls = 4\n'
CAP = '[[levers]]\nkind = "cap_output"\ntokens = 100\n'
FLEX = '[[levers]]\nkind = "service_tier"\nmatch = { feature = "nightly" }\n'
ALL = BREAKPOINTS + TRIM + COMPACT + DEDUPE + PRUNE + CALLS + CAP
SYSTEM = " ".join(f"Rule {number}: speak of order {number * 7} in plain words." for number in range(160))
MINUTE = 60_000


@cache
def shared():
    """(price book, tokenizer): the same for every world."""
    settings = config.parse(PROVIDERS, env={}, source="t")
    return bootstrap.price_book(settings), BpeTokenizer()


def served(levers, asks):
    prices, tokens = shared()
    world = World(config.parse(PROVIDERS + levers, env={}, source="t"), prices=prices, tokens=tokens)
    if world.services.levers is not None and "history_summary" in levers:
        world.services = replace(
            world.services, levers=Levers(world.settings.policy.levers, prices, summaries=Summaries())
        )
    world.run(asks)
    return world


def claude(at, turns, **fields):
    body = {"model": "claude-sonnet-4-5", "max_tokens": 200, "messages": turns, **fields}
    headers = ((b"anthropic-version", b"2023-06-01"),)
    return Ask(at_ms=at, body=body, dialect="anthropic", endpoint="messages", headers=headers, scope=Scope(org="o"))


def gpt(at, turns, **fields):
    return Ask(at_ms=at, body={"model": "gpt-4o", "messages": turns, **fields}, scope=Scope(org="o"))


def said(role, text, tokens=60):
    return {"role": role, "content": f"{text} [sim: tokens={tokens}]" if role == "user" else text}


def conversation(make, count, *, start=0, gap=MINUTE, words=80, **fields):
    """A chat that brings its whole history with every call."""
    turns, asks = [], []
    for number in range(count):
        turns = [*turns, said("user", f"{start} question {number} " + "word " * words)]
        asks.append(make(start + number * gap, turns, **fields))
        turns = [*turns, said("assistant", f"answer {number} " + "so " * words)]
    return asks


def agent(make, count, *, rows=30, same=False, form="chat", **fields):
    """A loop of calls of tools, each result pretty JSON."""
    turns, asks = [said("user", "Look them up.")], []
    for number in range(count):
        asks.append(make(number * 5_000, turns, **fields))
        page = 0 if same else number
        text = json.dumps({"rows": [{"id": page * 100 + row, "state": "open"} for row in range(rows)]}, indent=4)
        if form == "chat":
            call = {"id": f"c{number}", "type": "function", "function": {"name": "find", "arguments": "{}"}}
            turns = [
                *turns,
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": f"c{number}", "content": text},
            ]
        else:
            call = {"type": "tool_use", "id": f"t{number}", "name": "find", "input": {"page": number}}
            result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": text}
            turns = [*turns, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    return asks


def tools(form="chat"):
    names = ["find", *(f"rare_{number}" for number in range(12))]
    about = {name: f"Does {name} " + "with great care " * 20 for name in names}
    if form == "messages":
        return [{"name": name, "description": about[name], "input_schema": {"type": "object"}} for name in names]
    return [
        {"type": "function", "function": {"name": name, "description": about[name], "parameters": {"type": "object"}}}
        for name in names
    ]


def documents(make, count, asked="How many ships came to Genoa in {}?"):
    """Questions, each over a page of text in which one sentence answers it."""
    asks = []
    for number in range(count):
        page = " ".join(f"The mayor of town {place} likes walks near hill {place * 3}." for place in range(60))
        page += f" In {1900 + number} some {number * 7} ships came to Genoa. Nothing else is known of the weather."
        text = f"<context>\n{page}\n</context>\n{asked.format(1900 + number)}"
        asks.append(make(number * 1_000, [said("user", text, tokens=61)]))
    return asks


def shared_prompt(gap, count=12, **fields):
    return [claude(at * gap, [said("user", f"question {at}")], system=SYSTEM, **fields) for at in range(count)]


def waiting(model):
    scopes = (Scope(org="o", feature="nightly"), Scope(org="o", feature="chat"))
    body = {"model": model, "max_completion_tokens": 900}
    return [
        Ask(at_ms=n * 1_000, body={**body, "messages": [said("user", f"night {n}")]}, scope=scopes[n % 2])
        for n in range(6)
    ]


TRACES = {
    # name: (levers, asks, saves)
    "a conversation": (BREAKPOINTS, conversation(claude, 12, system=SYSTEM), True),
    "a conversation, streamed": (BREAKPOINTS, conversation(claude, 12, system=SYSTEM, stream=True), True),
    "an agent's loop": (BREAKPOINTS, agent(claude, 10, form="messages", tools=tools("messages")), True),
    "a system prompt that many share": (BREAKPOINTS, shared_prompt(MINUTE), True),
    "calls too far apart for five minutes": (BREAKPOINTS, shared_prompt(6 * MINUTE), False),
    "but not for an hour": (HOUR, shared_prompt(6 * MINUTE), True),
    "calls too far apart for anything": (HOUR, shared_prompt(90 * MINUTE), False),
    "prompts of which none comes twice": (
        BREAKPOINTS,
        [claude(n * 1_000, [said("user", f"{n} " + SYSTEM)]) for n in range(8)],
        False,
    ),
    "prompts below the minimum": (BREAKPOINTS, conversation(claude, 4, words=5, system="Be kind."), False),
    "many conversations at once": (
        BREAKPOINTS,
        sorted(
            (ask for one in range(5) for ask in conversation(claude, 6, start=one * 700, system=SYSTEM)),
            key=lambda ask: ask.at_ms,
        ),
        True,
    ),
    "a caller of the other dialect": (
        BREAKPOINTS,
        conversation(
            lambda at, turns, **fields: Ask(
                at_ms=at,
                body={"model": "claude-sonnet-4-5", "max_tokens": 99, "messages": turns, **fields},
                scope=Scope(org="o"),
            ),
            10,
            words=400,
        ),
        True,
    ),
    "a long chat": (TRIM, conversation(gpt, 40, words=120), True),
    "a long chat that is cached": (TRIM, conversation(claude, 40, words=120, system=SYSTEM), True),
    "a long chat, cached and trimmed": (TRIM + BREAKPOINTS, conversation(claude, 40, words=120, system=SYSTEM), True),
    "a short chat": (TRIM, conversation(gpt, 3), False),
    "pretty results": (COMPACT, agent(gpt, 8, tools=tools()), True),
    "pretty results of Claude's": (COMPACT, agent(claude, 8, form="messages", tools=tools("messages")), True),
    "the same result again and again": (DEDUPE, agent(gpt, 8, same=True, tools=tools()), True),
    "a long chat, summarised": (SUMMARY, conversation(gpt, 40, words=120), True),
    "a long chat with Claude, summarised": (SUMMARY, conversation(claude, 40, words=120, system=SYSTEM), True),
    "a chat whose cache is worth more than its history": (
        STRICT + BREAKPOINTS,
        conversation(claude, 24, words=60, system=SYSTEM),
        None,
    ),
    "context of which most is beside the point": (PRUNING, documents(gpt, 6), True),
    "context for Claude": (PRUNING, documents(claude, 6), True),
    "context that answers nothing": (PRUNING, documents(gpt, 3, asked="Quasars?"), False),
    "tools that nobody uses": (PRUNE, agent(gpt, 8, tools=tools()), True),
    "answers longer than they may be": (
        CAP,
        [gpt(n * 1_000, [said("user", f"tell {n}", tokens=400)]) for n in range(5)],
        True,
    ),
    "calls that can wait": (FLEX, waiting("o4-mini"), True),
    "calls that can wait at a model without such a tier": (FLEX, waiting("gpt-4o"), False),
    "everything at once": (ALL, conversation(claude, 30, system=SYSTEM, tools=tools("messages")), True),
    "everything at once, in a loop": (ALL, agent(claude, 12, form="messages", tools=tools("messages")), True),
    "everything at once elsewhere": (ALL, agent(gpt, 12, tools=tools()), True),
}


@pytest.mark.parametrize("name", TRACES)
def test_no_trace_costs_more_with_the_lever_on_the_providers_own_invoice(name):
    levers, asks, saves = TRACES[name]
    plain, pulled = served("", asks), served(levers, asks)
    own = {name: found for name, found in pulled.entries().items() if "-summary-" not in name}
    assert len(plain.entries()) == len(own) == len(asks)
    if saves:
        assert pulled.billed() < plain.billed()
    elif saves is None:
        assert pulled.billed() <= served(BREAKPOINTS, asks).billed()
    else:
        assert pulled.billed() == plain.billed()
    assert sum(entry.charge.total for found in pulled.entries().values() for entry in found) == pulled.billed()
    for entries in pulled.entries().values():
        for entry in entries:
            assert entry.charge.total <= entry.ceiling


@pytest.mark.parametrize("name", [name for name, (levers, _, _) in TRACES.items() if levers in (BREAKPOINTS, HOUR)])
def test_the_baseline_of_marked_calls_is_what_they_would_have_cost_unmarked(name):
    levers, asks, _ = TRACES[name]
    plain, pulled = served("", asks), served(levers, asks)
    baselines = {request: entries[0].baseline for request, entries in pulled.entries().items()}
    assert baselines == {request: entries[0].charge.total for request, entries in plain.entries().items()}
    assert sum(entry[0].charge.total for entry in pulled.entries().values()) == pulled.billed()


@pytest.mark.parametrize(
    "name",
    [
        "calls that can wait",
        "many conversations at once",
        "everything at once",
        "everything at once elsewhere",
        "a long chat, summarised",
    ],
)
def test_a_replay_of_the_log_books_the_same_although_it_has_no_text(name):
    levers, asks, _ = TRACES[name]
    world = served(levers, asks)
    prices, tokens = shared()
    entries, found = world.entries(), []
    replay(
        [msgspec.json.decode(msgspec.json.encode(one), type=type(one)) for one in world.exchanges()],
        lambda loop, provider, log: bootstrap.replay_services(
            world.settings, loop, provider, log, prices=prices, tokens=tokens
        ),
        found.append,
        estimate=lambda logged, target: logged.usage or Usage(),
        entries_of=lambda request_id: entries.get(request_id, ()),
    )
    assert len(found) == len(asks)
    for one in found:
        booked = [msgspec.structs.replace(entry, booked_at_ms=0) for entry in entries[one.logged.source.request_id]]
        assert [msgspec.structs.replace(entry, booked_at_ms=0) for entry in one.entries] == booked


def test_levers_say_what_they_did_once_a_request():
    asks = conversation(claude, 3, system=SYSTEM, tools=tools("messages"))
    world = served(PRUNE.replace('"prune_tools"', '"prune_tools"\nname = "slim"') + BREAKPOINTS, asks)
    last = world.entries()["r00002"][0]
    noted = {one.action: dict(one.evidence) for one in last.decisions if one.stage == "levers"}
    assert noted["cache_breakpoints"] == {"marks": "3", "ttl": "5m"}  # the one tool left is too short
    assert noted["prune_tools"]["lever"] == "slim"
    assert int(noted["prune_tools"]["bytes_less"]) > 3_000
    assert len([one for one in last.decisions if one.stage == "levers"]) == 2


def test_a_retry_is_no_reason_to_believe_that_a_prompt_comes_again():
    prices, tokens = shared()
    settings = config.parse(PROVIDERS + BREAKPOINTS + '[retries]\non = ["overloaded"]\n', env={}, source="t")
    world = World(settings, prices=prices, tokens=tokens)
    rules = (FaultRule(fault="529", times=2),)
    world.sim.account.faults.install(FaultOrder(rules=rules, seed=1))
    world.run([claude(0, [said("user", "once")], system=SYSTEM)])
    (exchange,) = world.exchanges()
    assert len(exchange.attempts) == 3
    assert not [one for one in exchange.decisions if one.stage == "levers"]


def test_levers_are_for_the_models_and_callers_that_they_name():
    asks = conversation(claude, 4, system=SYSTEM)
    for only in ('models = ["gpt-*"]\n', 'match = {team = "other"}\n'):
        world = served(BREAKPOINTS + only, asks)
        assert not [one for entry in world.entries().values() for one in entry[0].decisions]
    for only in ('models = ["claude-*"]\n', 'match = {org = "o"}\n'):
        world = served(BREAKPOINTS + only, asks)
        assert [one for entry in world.entries().values() for one in entry[0].decisions]


def test_every_call_of_a_conversation_reads_all_that_the_call_before_it_sent():
    world = served(BREAKPOINTS, conversation(claude, 6, system=SYSTEM))
    lines = [dict(world.entries()[f"r{number:05d}"][0].usage.parts[0].lines) for number in range(6)]
    assert set(lines[0]) == {"input", "output"}
    for before, after in pairwise(lines[1:]):
        sent = sum(many for unit, many in before.items() if unit.startswith("input"))
        assert after["input_cache_read"] == sent - before.get("input", 0)
        assert before.get("input", 0) == 0  # its newest message is marked too


def test_summaries_are_booked_to_the_lever_and_made_once_for_each_cut():
    world = served(SUMMARY, conversation(gpt, 40, words=120))
    made = {name: found for name, found in world.entries().items() if "-summary-" in name}
    assert 1 <= len(made) <= 4
    for (entry,) in made.values():
        assert (entry.charge.reason, entry.baseline, entry.model_requested) == (
            "lever:history_summary",
            0,
            "gpt-4o-mini",
        )
        assert entry.scope == Scope(org="o")
    noted = [
        one
        for found in world.entries().values()
        for entry in found
        for one in entry.decisions
        if (one.action, one.reason) == ("history_summary", "lever_applied")
    ]
    assert len(noted) > 20
    assert len(world.exchanges()) == 40  # a lever's own calls are nobody's requests


@pytest.mark.parametrize("spoilt", ["fault", "model", "budget"])
def test_a_call_goes_out_unchanged_where_its_summary_cannot_be_had(spoilt):
    asks = conversation(gpt, 24, words=120)
    levers = SUMMARY.replace("gpt-4o-mini", "nobody/serves-this") if spoilt == "model" else SUMMARY
    if spoilt == "budget":
        levers += '[[budgets]]\nname = "none"\nper = "month"\nusd = "0"\nmatch = {model = "gpt-4o-mini"}\n'
    prices, tokens = shared()
    world = World(config.parse(PROVIDERS + levers, env={}, source="t"), prices=prices, tokens=tokens)
    world.services = replace(
        world.services, levers=Levers(world.settings.policy.levers, prices, summaries=Summaries())
    )
    if spoilt == "fault":
        rules = (FaultRule(fault="500", model="gpt-4o-mini"),)
        world.sim.account.faults.install(FaultOrder(rules=rules, seed=1))
    world.run(asks)
    assert world.billed() == served("", asks).billed()
    assert [one.status for one in world.exchanges()] == [200] * 24
