"""Conversations and answers to translate, and what is left of them once declared losses are set aside."""

import json
from typing import Any

import msgspec
from hypothesis import strategies as st

from farthing.wire.canonical import (
    Answer,
    Began,
    CallBegan,
    CallPiece,
    Conversation,
    Counted,
    Ended,
    Event,
    Image,
    Message,
    PartEnded,
    Refusal,
    RefusalPiece,
    ResponseFormat,
    Stopped,
    Text,
    TextPiece,
    Thinking,
    ThinkingPiece,
    TokenCounts,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from farthing.wire.translate.messages_write import JSON_ONLY, call_id

replace = msgspec.structs.replace
WORDS = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z", "M", "Cc")), min_size=1, max_size=20
)
NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=3)
ARGUMENTS = OBJECTS.map(lambda value: msgspec.json.encode(value).decode()) | OBJECTS.map(
    lambda value: json.dumps(value, indent=1)
)
CACHES = st.sampled_from(("", "", "", "5m", "1h"))
TEXTS = st.builds(Text, text=WORDS, cache=CACHES)
IMAGES = st.builds(
    Image,
    media_type=st.sampled_from(("image/png", "image/jpeg")),
    data=st.sampled_from(("AAAA", "iVBORw0KGgo=")),
    detail=st.sampled_from(("", "", "low", "high")),
    cache=CACHES,
)
URL_IMAGES = st.builds(Image, url=st.just("https://example.com/a.png"), detail=st.sampled_from(("", "low")))
THOUGHTS = st.one_of(
    st.builds(Thinking, text=WORDS),
    st.builds(Thinking, text=WORDS, signature=NAMES, signer=st.just("anthropic")),
    st.builds(Thinking, signature=NAMES, redacted=st.just(True), signer=st.just("anthropic")),
    st.builds(Thinking, text=WORDS, signature=NAMES, signer=st.just("openai")),
)
TOOLS = st.builds(
    Tool,
    name=NAMES,
    description=st.just("") | WORDS,
    schema=OBJECTS.map(lambda value: msgspec.json.encode({"type": "object", **value})),
    strict=st.sampled_from((None, True, False)),
    cache=CACHES,
)
FORMATS = st.one_of(
    st.just(ResponseFormat(kind="json")),
    st.builds(
        ResponseFormat,
        kind=st.just("schema"),
        schema=OBJECTS.map(lambda value: msgspec.json.encode({"type": "object", **value})),
        name=NAMES,
        description=st.just("") | WORDS,
        strict=st.sampled_from((None, True, False)),
    ),
)


@st.composite
def turns(draw: Any, *, urls: bool = True, pictured_results: bool = False) -> tuple[Message, ...]:
    """User, model and tools in a plausible order: calls are answered, in parallel, before anyone else speaks."""
    found: list[Message] = []
    shown = IMAGES | URL_IMAGES if urls else IMAGES
    calls = 0
    for _ in range(draw(st.integers(1, 3))):
        for role in draw(st.sampled_from((("user",), ("user", "user"), ("user", "system"), ("system", "user")))):
            if role == "system" and not found:
                continue  # what leads is the system prompt
            parts = st.lists(TEXTS | shown, min_size=1, max_size=3) if role == "user" else st.lists(TEXTS, min_size=1)
            found.append(Message(role=role, parts=tuple(draw(parts))))
        said: list[Any] = draw(st.lists(THOUGHTS, max_size=1))
        said += draw(st.lists(st.builds(Text, text=WORDS), max_size=2))
        said += draw(st.lists(st.builds(Refusal, text=WORDS), max_size=1)) if said else []
        made = []
        for _ in range(draw(st.integers(0, 3))):
            calls += 1
            odd = draw(st.sampled_from(("call_{}", "functions.x:{}", "c{}")))
            made.append(ToolCall(id=odd.format(calls), name=draw(NAMES), arguments=draw(ARGUMENTS)))
        if not made and not any(isinstance(part, Text | Refusal) for part in said):
            said.append(Text(text=draw(WORDS)))
        found.append(Message(role="assistant", parts=(*said, *made)))
        if made:
            inside = TEXTS | IMAGES if pictured_results else TEXTS
            results = [
                ToolResult(
                    call_id=call.id,
                    parts=tuple(draw(st.lists(inside, max_size=2))),
                    is_error=draw(st.booleans()),
                    cache=draw(CACHES),
                )
                for call in made
            ]
            found.append(Message(role="tool", parts=tuple(results)))
    if found[-1].role == "assistant":
        found.append(Message(role="user", parts=(Text(text="go on"),)))
    return tuple(found)


@st.composite
def conversations(draw: Any, *, urls: bool = True, pictured_results: bool = False, stops: int = 4) -> Conversation:
    """Requests that use everything the canonical form has."""
    maybe = st.none
    tools = tuple(draw(st.lists(TOOLS, max_size=2, unique_by=lambda tool: tool.name)))
    choice = None
    parallel = None
    if tools:
        modes = (ToolChoice(mode="auto"), ToolChoice(mode="required"), ToolChoice(mode="none"))
        choice = draw(maybe() | st.sampled_from((*modes, ToolChoice(mode="named", name=tools[0].name))))
        parallel = draw(st.none() | st.booleans()) if choice is None or choice.mode != "none" else None
    return Conversation(
        model=draw(st.sampled_from(("gpt-4o", "claude-sonnet-4-5", "claude-opus-4-8", "gemini-3-pro", "some"))),
        system=tuple(draw(st.lists(TEXTS, max_size=2))),
        messages=draw(turns(urls=urls, pictured_results=pictured_results)),
        tools=tools,
        tool_choice=choice,
        parallel_tools=parallel,
        response_format=draw(maybe() | FORMATS),
        max_tokens=draw(maybe() | st.integers(1, 40_000)),
        stop=tuple(draw(st.lists(WORDS, max_size=stops))),
        temperature=draw(maybe() | st.sampled_from((0.0, 0.5, 1.0, 1.5))),
        top_p=draw(maybe() | st.sampled_from((0.1, 1.0))),
        top_k=draw(maybe() | st.integers(1, 99)),
        seed=draw(maybe() | st.integers(0, 99)),
        frequency_penalty=draw(maybe() | st.sampled_from((0.5, -1.0))),
        presence_penalty=draw(maybe() | st.sampled_from((0.5,))),
        effort=draw(maybe() | st.sampled_from(("none", "minimal", "low", "medium", "high", "xhigh", "max"))),
        thinking_budget=draw(maybe() | st.sampled_from((0, 1_024, 9_000))),
        adaptive_thinking=draw(st.booleans()),
        service_tier=draw(st.sampled_from(("", "auto", "default", "flex", "priority"))),
        user=draw(st.just("") | NAMES),
        stream=draw(st.booleans()),
    )


# -- what must be equal


def comparable(one: Conversation, losses: set[str]) -> Conversation:
    """The conversation with everything reset that was declared lost, and with one spelling for what is equivalent."""
    one = replace(one, include_usage=False, messages=tuple(_turn(turn, losses) for turn in one.messages))
    if "messages.system" in losses:
        one = replace(one, messages=tuple(_as_users(turn) for turn in one.messages))
    one = replace(one, tools=tuple(_tool(tool, losses) for tool in one.tools))
    one = replace(one, system=tuple(_bare(part, losses) for part in one.system if part.text != JSON_ONLY))
    plain = {"top_k", "top_p", "seed", "frequency_penalty", "presence_penalty", "max_tokens", "temperature"}
    for name in (plain | {"response_format"}) & losses:
        one = replace(one, **{name: None})
    for name in {"user", "service_tier"} & losses:
        one = replace(one, **{name: ""})
    if {"effort", "thinking_budget"} & losses:
        one = replace(one, effort=None, thinking_budget=None)
    if one.effort == "none":  # nobody thinks unless asked
        one = replace(one, effort=None)
    if one.thinking_budget == 0:
        one = replace(one, thinking_budget=None)
    one = replace(one, adaptive_thinking=False)
    if one.tools and one.tool_choice is None:
        one = replace(one, tool_choice=ToolChoice(mode="auto"))
    if "parallel_tool_calls" in losses or one.parallel_tools is None:
        one = replace(one, parallel_tools=None)
    return replace(one, response_format=_format(one.response_format, losses))


def _as_users(turn: Message) -> Message:
    return replace(turn, role="user") if turn.role == "system" else turn


def _turn(turn: Message, losses: set[str]) -> Message:
    parts = [_bare(part, losses) for part in turn.parts]
    if "messages.thinking" in losses:
        parts = [part for part in parts if not isinstance(part, Thinking)]
    return replace(turn, parts=tuple(parts))


def _bare(part: Any, losses: set[str]) -> Any:
    if "cache_control" in losses and hasattr(part, "cache"):
        part = replace(part, cache="")
    if isinstance(part, Image) and "image.detail" in losses:
        return replace(part, detail="")
    if isinstance(part, Refusal) and "messages.refusal" in losses:
        return Text(text=part.text)
    if isinstance(part, ToolCall):
        return replace(part, id=call_id(part.id), arguments=same_json(part.arguments))
    if isinstance(part, ToolResult):
        failed = part.is_error and "messages.tool_result.is_error" not in losses
        inside = tuple(_bare(one, losses) for one in part.parts)
        return replace(part, call_id=call_id(part.call_id), is_error=failed, parts=inside)
    return part


def same_json(text: str) -> str:
    """One spelling of a JSON value."""
    return json.dumps(json.loads(text or "{}"), sort_keys=True)


def _tool(tool: Tool, losses: set[str]) -> Tool:
    if "cache_control" in losses:
        tool = replace(tool, cache="")
    if "tools.strict" in losses:
        tool = replace(tool, strict=None)
    return replace(tool, schema=same_json(tool.schema.decode()).encode())


def _format(form: ResponseFormat | None, losses: set[str]) -> ResponseFormat | None:
    if form is None or form.kind == "json":
        return form
    form = replace(form, schema=same_json(form.schema.decode()).encode())
    if "response_format.name" in losses:
        form = replace(form, name="", description="")
    if "response_format.strict" in losses:
        form = replace(form, strict=None)
    return form


# -- answers

USAGES = st.builds(
    TokenCounts,
    input=st.integers(0, 999),
    cache_read=st.integers(0, 99),
    output=st.integers(1, 99),
)


@st.composite
def answers(draw: Any) -> Answer:
    """Whole answers: reasoning, words or a refusal, calls, and an end that fits."""
    parts: list[Any] = draw(st.lists(st.builds(Thinking, text=WORDS), max_size=1))
    kind = draw(st.sampled_from(("text", "text", "calls", "both", "refusal")))
    if kind in ("text", "both"):
        parts.append(Text(text=draw(WORDS)))
    if kind == "refusal":
        parts.append(Refusal(text=draw(WORDS)))
    if kind in ("calls", "both"):
        for number in range(draw(st.integers(1, 3))):
            arguments = msgspec.json.encode(draw(OBJECTS)).decode()
            parts.append(ToolCall(id=f"call_{number}", name=draw(NAMES), arguments=arguments))
    stops = {"text": ("stop", "length", "content_filter"), "refusal": ("refusal",)}
    return Answer(
        id="id_1",
        model="m-1",
        parts=tuple(parts),
        stop=draw(st.sampled_from(stops.get(kind, ("tool",)))),
        usage=draw(USAGES),
    )


@st.composite
def told(draw: Any, answer: Answer) -> list[Event]:
    """The answer as a stream tells it, in pieces of any size."""
    events: list[Event] = [Began(id=answer.id, model=answer.model)]
    calls = 0
    for part in answer.parts:
        if isinstance(part, ToolCall):
            events.append(CallBegan(index=calls, id=part.id, name=part.name))
            events += [CallPiece(index=calls, arguments=piece) for piece in draw(pieces(part.arguments))]
            calls += 1
        elif isinstance(part, Thinking):
            events += [ThinkingPiece(text=piece) for piece in draw(pieces(part.text))]
        elif isinstance(part, Refusal):
            events += [RefusalPiece(text=piece) for piece in draw(pieces(part.text))]
        elif isinstance(part, Text):
            events += [TextPiece(text=piece) for piece in draw(pieces(part.text))]
        events.append(PartEnded())
    usage = answer.usage or TokenCounts()
    return [*events, Stopped(stop=answer.stop, stop_sequence=answer.stop_sequence), Counted(usage=usage), Ended()]


@st.composite
def pieces(draw: Any, text: str) -> list[str]:
    """The text, cut somewhere."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=3)) & set(range(1, len(text))))
    ends = [*cuts, len(text)]
    return [text[start:end] for start, end in zip([0, *cuts], ends, strict=True)]


def collected(events: list[Event]) -> Answer:
    """The answer that a stream's events add up to."""
    parts: list[Any] = []
    places: dict[int, int] = {}
    answer = Answer()
    assert isinstance(events[0], Began)
    assert [isinstance(event, Ended) for event in events] == [False] * (len(events) - 1) + [True]
    for event in events:
        if isinstance(event, Began):
            answer = replace(answer, id=event.id, model=event.model, usage=event.usage)
        elif isinstance(event, CallBegan):
            places[event.index] = len(parts)
            parts.append(ToolCall(id=event.id, name=event.name, arguments=""))
        elif isinstance(event, CallPiece):
            call = parts[places[event.index]]
            parts[places[event.index]] = replace(call, arguments=call.arguments + event.arguments)
        elif isinstance(event, TextPiece | RefusalPiece | ThinkingPiece):
            kind: Any = {TextPiece: Text, RefusalPiece: Refusal, ThinkingPiece: Thinking}[type(event)]
            if parts and isinstance(parts[-1], kind):
                parts[-1] = replace(parts[-1], text=parts[-1].text + event.text)
            else:
                parts.append(kind(text=event.text))
        elif isinstance(event, Stopped):
            answer = replace(answer, stop=event.stop, stop_sequence=event.stop_sequence)
        elif isinstance(event, Counted):
            answer = replace(answer, usage=event.usage)
    return replace(answer, parts=tuple(parts))
