"""``POST /v1/chat/completions``."""

from collections.abc import Iterator
from typing import Any

import msgspec

from farthing.sim.account import Account
from farthing.sim.admission import Ticket, admit, positive
from farthing.sim.answer import Answer, Part, compose
from farthing.sim.billing import Call
from farthing.sim.delivery import Event, deliver, deliver_stream
from farthing.sim.errors import invalid
from farthing.sim.http import Wire
from farthing.sim.openai_ask import ask_of, cap_of
from farthing.sim.openai_wire import answer_headers, cached_prompt, chat_prompt, usage_of, wanted_tier
from farthing.sim.tokens import encoding, pieces

FINISH = {"stop": "stop", "stop_sequence": "stop", "length": "length", "tool": "tool_calls"}
FINGERPRINT = "fp_farthing_sim"
CHOICES_MAX = 128
_encode = msgspec.json.Encoder().encode


async def chat_completions(account: Account, wire: Wire) -> None:
    """Answer a chat completion."""
    ticket = await admit(account, wire, "openai", "/v1/chat/completions", ("chat",))
    body = ticket.body
    prompt = chat_prompt(body, ticket.card)
    total = prompt.tokens
    cap, _ = cap_of(ticket, total, "max_completion_tokens", "max_tokens")
    choices = positive(body, "n") or 1
    if choices > CHOICES_MAX:
        raise invalid(f"Invalid 'n': at most {CHOICES_MAX} choices.", param="n")
    seed = account.settings.seed
    answers = [compose(ask_of(ticket, prompt, total, cap, seed, index), ticket.card) for index in range(choices)]
    tier = wanted_tier(ticket)
    call = Call(
        account,
        ticket,
        cached_prompt(account, ticket, prompt),
        id=account.next_id("chatcmpl-"),
        wanted_tier=tier,
        images=prompt.images,
        raw=sum(answer.raw for answer in answers),
        raw_reasoning=sum(answer.raw_reasoning for answer in answers),
    )
    headers = answer_headers(account, ticket)
    if ticket.stream:
        events = _events(account, ticket, call, answers)
        await deliver_stream(account, wire, ticket, call, events, headers)
        return
    payload = _base(ticket, call, "chat.completion")
    payload["choices"] = [_choice(ticket, index, answer) for index, answer in enumerate(answers)]
    if not ticket.fault_is("no-usage"):
        payload["usage"] = usage_of(call.tokens())
    await deliver(account, wire, ticket, call, _encode(payload), headers)


def _base(ticket: Ticket, call: Call, kind: str) -> dict[str, Any]:
    return {
        "id": call.id,
        "object": kind,
        "created": ticket.at // 1000,
        "model": ticket.card.served,
        "service_tier": call.tier,
        "system_fingerprint": FINGERPRINT,
    }


def _choice(ticket: Ticket, index: int, answer: Answer) -> dict[str, Any]:
    calls = [part for part in answer.parts if part.kind == "tool"]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if calls else answer.text,
        "refusal": None,
        "annotations": [],
    }
    if calls:
        message["tool_calls"] = [_tool_call(part) for part in calls]
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(ticket, answer) if ticket.body.get("logprobs") else None,
        "finish_reason": FINISH[answer.finish],
    }


def _tool_call(part: Part) -> dict[str, Any]:
    function = {"name": part.name, "arguments": part.text}
    return {"id": f"call_{part.call_id}", "type": "function", "function": function}


def _logprobs(ticket: Ticket, answer: Answer) -> dict[str, Any]:
    ids = [token for part in answer.parts if part.kind == "text" for token in part.ids]
    return {"content": token_logprobs(ids, ticket), "refusal": None}


def token_logprobs(ids: list[int], ticket: Ticket) -> list[dict[str, Any]]:
    """Made-up but repeatable log probabilities, one per token."""
    codec = encoding(ticket.card.encoding)
    out = []
    for token in ids:
        text = codec.decode([token]) or "\ufffd"
        top = {"token": text, "logprob": -round((token % 97) / 60, 4), "bytes": list(text.encode())}
        out.append({**top, "top_logprobs": [top] if ticket.body.get("top_logprobs") else []})
    return out


def _events(account: Account, ticket: Ticket, call: Call, answers: list[Answer]) -> Iterator[Event]:
    """The whole stream; billing stands at an event's ``raw`` when the stream stops there."""
    options = ticket.body.get("stream_options") or {}
    with_usage = options.get("include_usage") is True
    tail = b',"usage":null}\n\n' if with_usage else b"}\n\n"
    base = _base(ticket, call, "chat.completion.chunk")
    head = b"data: " + _encode(base)[:-1] + b',"choices":['
    raw = 0
    for index, answer in enumerate(answers):
        for delta, finish, logprobs, tokens in _deltas(account, ticket, answer):
            raw += tokens
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            yield Event(head + _encode(choice) + b"]" + tail, raw)
    if with_usage and not ticket.fault_is("no-usage"):
        yield Event(head + b'],"usage":' + _encode(usage_of(call.tokens())) + b"}\n\n", raw)
    yield Event(b"data: [DONE]\n\n", raw)


Delta = tuple[dict[str, Any], str | None, dict[str, Any] | None, int]


def _deltas(account: Account, ticket: Ticket, answer: Answer) -> Iterator[Delta]:
    """(delta, finish reason, logprobs, raw tokens) of one choice. Hidden reasoning comes before the first delta."""
    calls = 0
    opening: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    if any(part.kind == "tool" for part in answer.parts):
        opening["content"] = None
    yield opening, None, None, answer.raw_reasoning
    size, encoding_name = account.settings.tokens_per_event, ticket.card.encoding
    for part in answer.parts:
        if part.kind == "thinking":
            continue
        if part.kind == "tool":
            function = {"name": part.name, "arguments": ""}
            call = {"index": calls, "id": f"call_{part.call_id}", "type": "function", "function": function}
            yield {"tool_calls": [call]}, None, None, part.overhead
            for text, tokens in pieces(part.ids, size, encoding_name):
                yield {"tool_calls": [{"index": calls, "function": {"arguments": text}}]}, None, None, tokens
            calls += 1
            continue
        at = 0
        for text, tokens in pieces(part.ids, size, encoding_name):
            logprobs = None
            if ticket.body.get("logprobs"):
                logprobs = {"content": token_logprobs(part.ids[at : at + tokens], ticket), "refusal": None}
            at += tokens
            yield {"content": text}, None, logprobs, tokens
    yield {}, FINISH[answer.finish], None, 0
