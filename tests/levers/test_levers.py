"""Every lever: its golden cases, and what all of them promise."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.config.levers import KINDS
from farthing.core import levers as package
from farthing.core.json_spans import elements, members, spliced
from farthing.core.lever import Facts
from farthing.core.levers import (
    cache_breakpoints,
    cap_output,
    compact_json,
    dedupe_blocks,
    extractive_pruning,
    history_summary,
    max_tool_calls,
    prune_tools,
    service_tier,
    trim_history,
)
from farthing.core.levers.cache_breakpoints import CacheBreakpoints
from farthing.core.levers.cap_output import CapOutput
from farthing.core.levers.compact_json import CompactJson
from farthing.core.levers.dedupe_blocks import DedupeBlocks
from farthing.core.levers.extractive_pruning import GAP, ExtractivePruning
from farthing.core.levers.history_summary import OPENING, HistorySummary, wanted
from farthing.core.levers.history_summary import pays as summary_pays
from farthing.core.levers.max_tool_calls import MaxToolCalls
from farthing.core.levers.prune_tools import PruneTools
from farthing.core.levers.service_tier import ServiceTier
from farthing.core.levers.trim_history import TrimHistory, pays
from farthing.core.policy_levers import AnyLever, apply, kind_of

FOLDER = Path(__file__).parent
PREFIXES = {
    module.__name__.rpartition(".")[2]: module.PREFIX
    for module in (cache_breakpoints, cap_output, compact_json, dedupe_blocks, extractive_pruning, history_summary,
                   max_tool_calls, prune_tools, service_tier, trim_history)
}  # fmt: skip
CLAUDE = {"read_bp": 1_000, "write_bp": 12_500}
LISTS = {"chat": "messages", "messages": "messages", "responses": "input"}


class Case(msgspec.Struct, frozen=True, rename={"body": "in"}):
    name: str
    lever: AnyLever
    facts: Facts
    body: str
    out: str | None


def cases() -> list[Case]:
    lines = [line for path in sorted(FOLDER.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [msgspec.json.decode(line, type=Case) for line in lines]


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{kind_of(case.lever)}: {case.name}")
def test_golden(case):
    body = case.body.encode()
    got = apply(case.lever, body, case.facts)
    if case.out is None:
        assert got is body
    else:
        assert got.decode() == case.out
        assert apply(case.lever, got, case.facts) is got


def test_every_lever_has_a_file_of_its_own_golden_cases_and_says_what_it_does_to_the_prefix():
    files = {path.stem for path in Path(package.__path__[0]).glob("*.py")} - {"__init__"}
    assert files == set(KINDS) == {path.stem for path in FOLDER.glob("*.jsonl")} == set(PREFIXES)
    assert set(PREFIXES.values()) <= {"kept", "own_form", "broken"}


# -- conversations

SPACE = st.sampled_from(["", " ", "\n  "])
WORDS = st.text(alphabet='ab"\\{}[],: é\n', max_size=30)
PLAIN = st.one_of(
    WORDS,
    st.builds(lambda text: text * 40, st.sampled_from(["long text ", "other ", 'quoted "'])),
    st.builds(lambda value: json.dumps(value, indent=4), st.lists(st.integers(), max_size=9)),
    st.builds(
        lambda parts, asked: f"<context>{''.join(parts)}</context> {asked}",
        st.lists(
            st.sampled_from(
                [
                    "Genoa is old. ",
                    "Ships bring coal! ",
                    "\n# Ports\n",
                    "```\ncode. more\n```\n",
                    "| a. | b |\n",
                    "No? \n",
                ]
            ),
            max_size=14,
        ),
        st.sampled_from(["Is Genoa old?", "Coal?", "", "Tell me. […]"]),
    ),
)


@st.composite
def conversations(draw, form=None):
    """(form, body as a dictionary, separators): growing it by turns gives what its next calls would bring."""
    form = form or draw(st.sampled_from(sorted(LISTS)))
    turns, number = [], 0
    for _ in range(draw(st.integers(1, 6))):
        turns.append(_human(draw, form))
        for _ in range(draw(st.integers(0, 2))):
            turns += _called(draw, form, number)
            number += 1
        turns.append({"role": "assistant", "content": draw(PLAIN)})
    turns.append(_human(draw, form))
    body = {"model": "claude-sonnet-4-5", LISTS[form]: turns}
    if form == "messages":
        body["max_tokens"] = draw(st.integers(1, 3_000))
        body["system"] = draw(st.one_of(PLAIN, st.lists(st.builds(lambda t: {"type": "text", "text": t}, PLAIN))))
    elif form == "chat" and draw(st.booleans()):
        turns.insert(0, {"role": "system", "content": draw(PLAIN)})
    if draw(st.booleans()):
        body["tools"] = [_tool(form, name) for name in draw(st.lists(st.sampled_from("abcdef"), unique=True))]
    return form, body


def _human(draw, form):
    kind = "input_text" if form == "responses" else "text"
    content = draw(st.one_of(PLAIN, st.lists(st.builds(lambda t: {"type": kind, "text": t}, PLAIN), min_size=1)))
    return {"role": "user", "content": content}


def _called(draw, form, number):
    name, said = f"call_{number}", draw(PLAIN)
    if form == "responses":
        call = {"type": "function_call", "call_id": name, "name": "use", "arguments": "{}"}
        return [call, {"type": "function_call_output", "call_id": name, "output": said}]
    if form == "chat":
        call = {"id": name, "type": "function", "function": {"name": "use", "arguments": "{}"}}
        return [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": name, "content": said},
        ]
    call = {"type": "tool_use", "id": name, "name": "use", "input": {}}
    result = {"type": "tool_result", "tool_use_id": name, "content": said}
    return [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]


def _tool(form, name):
    rules = {"type": "object"}
    if form == "chat":
        return {"type": "function", "function": {"name": name, "parameters": rules}}
    return {"name": name, "input_schema" if form == "messages" else "parameters": rules}


LEVERS = st.one_of(
    st.builds(CacheBreakpoints, ttl=st.sampled_from(["5m", "1h"]), reuse=st.just("always")),
    st.builds(
        TrimHistory,
        above_tokens=st.integers(20, 400),
        to_tokens=st.integers(0, 20),
        keep_turns=st.integers(1, 3),
        turns_expected=st.integers(0, 20),
    ),
    st.builds(CompactJson, bytes_min=st.integers(0, 50), users=st.booleans()),
    st.builds(DedupeBlocks, bytes_min=st.integers(0, 500), users=st.booleans()),
    st.builds(PruneTools, tools=st.lists(st.sampled_from(["a", "b", "[cd]", "*"]), min_size=1).map(tuple)),
    st.builds(MaxToolCalls, calls=st.integers(1, 3)),
    st.builds(CapOutput, tokens=st.integers(1, 2_000)),
    st.builds(ServiceTier),
    st.builds(
        ExtractivePruning,
        evaluated=st.just("e"),
        above_tokens=st.integers(0, 60),
        to_tokens=st.integers(0, 60),
    ),
)


def encoded(body, loose=False):
    return json.dumps(body, separators=(" , ", " : ") if loose else (",", ":"), ensure_ascii=not loose).encode()


def unmarked(value):
    """A body without breakpoints, and with lone blocks of text as the strings they stand for."""
    if isinstance(value, list):
        found = [unmarked(one) for one in value]
        if len(found) == 1 and isinstance(found[0], dict) and set(found[0]) == {"type", "text"}:
            return found[0]["text"]
        return found
    if isinstance(value, dict):
        return {name: unmarked(one) for name, one in value.items() if name != "cache_control"}
    return value


@given(conversations(), LEVERS, st.booleans(), st.booleans())
def test_levers_are_idempotent_and_never_add_to_what_a_call_may_cost(conversation, lever, loose, priced):
    form, shape = conversation
    body = encoded(shape, loose)
    facts = Facts(form=form, cache_min_tokens=0, **(CLAUDE if priced else {}))
    once = apply(lever, body, facts)
    assert apply(lever, once, facts) is once
    if once == body:
        assert once is body
    if isinstance(lever, CacheBreakpoints):
        assert unmarked(json.loads(once)) == unmarked(json.loads(body))
        assert once.count(b'"cache_control"') <= 4
    elif isinstance(lever, CapOutput):
        before, after = json.loads(body), json.loads(once)
        if "max_tokens" in before:
            assert after["max_tokens"] == min(before["max_tokens"], lever.tokens)
        assert {**after, **before} == before or after.keys() - before.keys()
    elif isinstance(lever, ServiceTier):
        assert {**json.loads(once), "service_tier": "flex"} == {**json.loads(body), "service_tier": "flex"}
    elif isinstance(lever, MaxToolCalls):
        assert {**json.loads(once), "tool_choice": 0} == {**json.loads(body), "tool_choice": 0}
    else:
        assert len(once) <= len(body)
        if once is not body:
            assert len(once) < len(body)


@given(conversations(), LEVERS, st.data())
def test_levers_that_keep_the_prefix_leave_the_start_of_a_growing_conversation_as_it_was(conversation, lever, data):
    form, shape = conversation
    if PREFIXES[kind_of(lever)] == "broken":
        return
    turns = shape[LISTS[form]]
    few = data.draw(st.integers(1, len(turns)))
    facts = Facts(form=form, cache_min_tokens=0, **CLAUDE)
    short, long = (
        unmarked(json.loads(apply(lever, encoded({**shape, LISTS[form]: part}), facts)))
        for part in (turns[:few], turns)
    )
    assert long[LISTS[form]][:few] == short[LISTS[form]]
    assert long.get("tools") == short.get("tools")
    assert long.get("system") == short.get("system")


@given(conversations("messages"), st.sampled_from(["5m", "1h"]))
def test_marks_stand_beside_the_content_whose_bytes_stay_in_their_order(conversation, ttl):
    body = encoded(conversation[1], loose=True)
    got = apply(CacheBreakpoints(ttl=ttl, reuse="always"), body, Facts(form="messages", cache_min_tokens=0))
    rest = got
    for piece in (b'{"type":"text","text":', b'"cache_control":'):
        rest = rest.replace(piece, b"")
    kept = iter(rest)
    assert all(byte in kept for byte in body.replace(b"  ", b""))  # a subsequence: nothing was moved or lost


@given(conversations(), st.integers(20, 300), st.integers(1, 3), st.data())
def test_trimming_keeps_instructions_and_whole_calls_and_the_newest_turns(conversation, above, keep, data):
    form, shape = conversation
    lever = TrimHistory(above_tokens=above, to_tokens=above // 3, keep_turns=keep)
    got = json.loads(apply(lever, encoded(shape), Facts(form=form)))
    before, after = shape[LISTS[form]], got[LISTS[form]]
    assert {**got, LISTS[form]: 0} == {**shape, LISTS[form]: 0}
    system = [turn for turn in before if turn.get("role") == "system"]
    assert after[: len(system)] == system
    rest = after[len(system) :]
    assert rest == before[len(before) - len(rest) :]
    text = json.dumps(rest)
    for number in range(20):
        assert text.count(f'"call_{number}"') in (0, 2)
    if len(after) < len(before):
        assert rest[0]["role"] == "user"
        assert sum(1 for turn in rest if _is_human(turn)) >= keep


def _is_human(turn):
    content = turn.get("content")
    results = isinstance(content, list) and any(block.get("type") == "tool_result" for block in content)
    return turn.get("role") == "user" and not results


@given(conversations(), st.integers(20, 200))
def test_a_growing_history_is_cut_rarely_and_at_the_same_place_in_between(conversation, above):
    form, shape = conversation
    lever = TrimHistory(above_tokens=above, to_tokens=above // 4, keep_turns=1)
    starts, sizes = [], []
    turns = [turn for turn in shape[LISTS[form]] if turn.get("role") != "system"]
    for few in range(1, len(turns) + 1):
        got = json.loads(apply(lever, encoded({**shape, LISTS[form]: turns[:few]}), Facts(form=form)))
        starts.append(few - len(got[LISTS[form]]))
        sizes.append(len(encoded(got[LISTS[form]])))
    assert starts == sorted(starts)
    for before, after, size in zip(starts, starts[1:], sizes, strict=False):
        if after > before:
            assert size + 400 > lever.above_tokens  # nothing is cut from what is short


def test_a_cut_is_weighed_by_what_the_rest_costs_to_write_anew():
    lever = TrimHistory(above_tokens=100, to_tokens=50, turns_expected=10)
    claude = Facts(form="messages", **CLAUDE)
    # 1,000 dropped × 0.1 × 10 turns = 1,000 against kept × (1.25 − 0.1)
    assert pays(lever, claude, dropped=1_000, kept=869)
    assert not pays(lever, claude, dropped=1_000, kept=870)
    assert pays(lever, Facts(form="chat"), dropped=1, kept=1_000_000)  # nothing is cached, nothing is lost


# -- what is summarised

CHEAP = {"summary_read_bp": 10, "summary_write_bp": 40}


@given(conversations(), st.integers(20, 300), st.integers(1, 3))
def test_a_summary_takes_the_place_of_whole_exchanges_once(conversation, above, keep):
    form, shape = conversation
    lever = HistorySummary(
        model="m", above_tokens=above, to_tokens=above // 3, tokens=1, keep_turns=keep, turns_expected=9
    )
    body = encoded(shape)
    facts = Facts(form=form, **CHEAP)
    assert apply(lever, body, facts) is body  # there is none yet
    asked = wanted(lever, body, facts)
    if asked is None:
        return
    facts = msgspec.structs.replace(facts, summaries={asked.name: "It was so."})
    once = apply(lever, body, facts)
    assert apply(lever, once, facts) is once
    assert wanted(lever, body, facts) is None
    if once is body:
        return  # what goes is shorter than its summary
    assert len(once) < len(body)
    before, after = shape[LISTS[form]], json.loads(once)[LISTS[form]]
    assert {**json.loads(once), LISTS[form]: 0} == {**shape, LISTS[form]: 0}
    system = [turn for turn in before if turn.get("role") == "system"]
    assert after[: len(system)] == system
    summary, *rest = after[len(system) :]
    assert summary == {"role": "user", "content": OPENING + "It was so."}
    assert rest == before[len(before) - len(rest) :]
    assert _is_human(rest[0])
    assert sum(1 for turn in rest if _is_human(turn)) >= keep
    text = json.dumps(rest)
    assert all(text.count(f'"call_{number}"') in (0, 2) for number in range(20))
    gone = before[len(system) : len(before) - len(rest)]
    assert all(encoded(turn).decode() in asked.prompt for turn in gone)


def test_the_next_summary_builds_on_the_one_before():
    lever = HistorySummary(model="m", above_tokens=100, to_tokens=20, tokens=2, keep_turns=1)
    turns, names, summaries = [], [], {}
    for number in range(24):
        turns += [
            {"role": "user", "content": f"question {number} " + "x" * 60},
            {"role": "assistant", "content": f"answer {number}"},
        ]
        facts = Facts(form="chat", summaries=summaries, **CHEAP)
        asked = wanted(lever, encoded({"messages": turns}), facts)
        if asked is not None:
            if names:
                assert f"summary {len(names) - 1}" in asked.prompt
                assert "question 0 " not in asked.prompt
            summaries[asked.name] = f"summary {len(names)}"
            names.append(asked.name)
    assert len(names) >= 3


def test_a_summary_that_failed_leaves_the_one_before_in_force():
    lever = HistorySummary(model="m", above_tokens=100, to_tokens=20, tokens=2, keep_turns=1)
    turns, summaries, last = [], {}, b""
    for number in range(24):
        turns += [{"role": "user", "content": f"q{number} " + "x" * 60}, {"role": "assistant", "content": "a"}]
        body = encoded({"messages": turns})
        facts = Facts(form="chat", summaries=summaries, **CHEAP)
        asked = wanted(lever, body, facts)
        if asked is not None and not summaries:
            summaries = {asked.name: "first"}
        last = apply(lever, body, facts)
    assert OPENING.strip() in json.loads(last)["messages"][0]["content"]


def test_a_summary_is_weighed_by_all_that_it_costs():
    lever = HistorySummary(model="m", above_tokens=9, to_tokens=1, tokens=100, turns_expected=10)
    claude = Facts(form="messages", summary_read_bp=3_333, summary_write_bp=16_666, **CLAUDE)
    # (dropped − 400) × 0.1 × 10 against kept × 1.15 + 400 × 1.25 + (dropped + 400) × 0.3333 + 400 × 1.6666
    assert summary_pays(lever, claude, dropped=4_000, kept=840)
    assert not summary_pays(lever, claude, dropped=4_000, kept=841)
    assert not summary_pays(lever, Facts(form="chat", **CHEAP), dropped=400, kept=0)  # nothing would be saved


# -- what is pruned


@given(
    st.lists(
        st.sampled_from(["Genoa is old. ", "It rains. ", "\n```\nx = 1. y\n```\n", "\n| a | b |\n", "\n# Head\n"]),
        max_size=40,
    )
)
def test_code_tables_and_headings_stay_in_their_order_and_no_word_is_new(parts):
    value = f"Be exact.\n<context>\n{''.join(parts)}</context>\nHow old is Genoa?"
    body = encoded({"messages": [{"role": "system", "content": value}, {"role": "user", "content": value}]})
    lever = ExtractivePruning(evaluated="e", above_tokens=0, to_tokens=20)
    got = json.loads(apply(lever, body, Facts(form="chat")))["messages"]
    assert got[0]["content"] == value  # instructions are never touched
    text = got[1]["content"]
    assert text.startswith("Be exact.\n<context>\n")
    assert text.endswith("</context>\nHow old is Genoa?")
    for kept in ("```\nx = 1. y\n```\n", "| a | b |\n", "# Head\n"):
        assert text.count(kept) == value.count(kept)
    rest = iter(value)
    assert all(letter in rest for letter in text.replace(GAP, "").replace(" ", "").replace("\n", ""))


# -- spans

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5), st.booleans(), SPACE)
def test_spans_are_where_the_values_stand(shape, loose, gap):
    body = gap.encode() + encoded(shape, loose) + gap.encode()
    spans = members(body)
    assert spans is not None
    assert {name: json.loads(body[start:end]) for name, (start, end) in spans.items()} == shape
    for name, (start, end) in spans.items():
        assert json.loads(spliced(body, [(start, end, b"7")])) == {**shape, name: 7}


@given(st.lists(JSON, max_size=5), st.booleans())
def test_spans_of_lists(shape, loose):
    body = encoded(shape, loose)
    spans = elements(body)
    assert spans is not None
    assert [json.loads(body[start:end]) for start, end in spans] == shape


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":1}', '{"a":12,"a":1}', '{"a":1,"b":2,"a":3}', "[1]", '"x"', "{", "", '{"a":1}x', "{}{}"]
)
def test_what_is_no_object_of_distinct_names_has_no_spans(text):
    assert members(text.encode()) is None


@given(st.binary(max_size=60), LEVERS, st.sampled_from(["chat", "messages", "responses", "embeddings"]))
def test_levers_leave_alone_what_they_cannot_read(body, lever, form):
    got = apply(lever, body, Facts(form=form))
    assert got is body or json.loads(got)
