"""``POST /v1/responses``."""

from collections.abc import Iterator
from typing import Any

import msgspec

from farthing.sim.account import Account
from farthing.sim.admission import Ticket, admit
from farthing.sim.answer import Answer, Part, compose
from farthing.sim.billing import Call
from farthing.sim.delivery import Event, deliver, deliver_stream
from farthing.sim.http import Wire
from farthing.sim.invoice import Tokens
from farthing.sim.openai_ask import ask_of, cap_of
from farthing.sim.openai_wire import answer_headers, cached_prompt, responses_prompt, wanted_tier
from farthing.sim.tokens import pieces

_encode = msgspec.json.Encoder().encode


async def responses(account: Account, wire: Wire) -> None:
    """Answer a Responses call."""
    ticket = await admit(account, wire, "openai", "/v1/responses", ("chat",))
    prompt = responses_prompt(ticket.body, ticket.card)
    total = prompt.tokens
    cap, _ = cap_of(ticket, total, "max_output_tokens")
    answer = compose(ask_of(ticket, prompt, total, cap, account.settings.seed), ticket.card)
    call = Call(
        account,
        ticket,
        cached_prompt(account, ticket, prompt),
        id=account.next_id("resp_"),
        wanted_tier=wanted_tier(ticket),
        images=prompt.images,
        raw=answer.raw,
        raw_reasoning=answer.raw_reasoning,
    )
    headers = answer_headers(account, ticket)
    if ticket.stream:
        events = _events(account, ticket, call, answer)
        await deliver_stream(account, wire, ticket, call, events, headers)
        return
    await deliver(account, wire, ticket, call, _encode(_finished(ticket, call, answer)), headers)


def usage_of(tokens: Tokens) -> dict[str, Any]:
    """``usage`` of a response: cached and reasoning tokens are parts of their totals."""
    prompt: dict[str, Any] = {"cached_tokens": tokens.cache_read, "cache_write_tokens": tokens.cache_write}
    if tokens.cache_write:
        prompt["cache_write_tokens_details"] = {"ttl_30m_tokens": tokens.cache_write, "ttl_12h_tokens": 0}
    return {
        "input_tokens": tokens.prompt,
        "input_tokens_details": prompt,
        "output_tokens": tokens.generated,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.prompt + tokens.generated,
    }


def _response(ticket: Ticket, call: Call, status: str) -> dict[str, Any]:
    body = ticket.body
    return {
        "id": call.id,
        "object": "response",
        "created_at": ticket.at // 1000,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": ticket.card.served,
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": (body.get("reasoning") or {}).get("effort"), "summary": None},
        "service_tier": call.tier,
        "store": body.get("store") is not False,
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation") or "disabled",
        "usage": None,
        "user": body.get("user"),
    }


def _finished(ticket: Ticket, call: Call, answer: Answer) -> dict[str, Any]:
    cut = answer.finish == "length"
    response = _response(ticket, call, "incomplete" if cut else "completed")
    response["output"] = [_item(call, index, part, done=True) for index, part in enumerate(answer.parts)]
    if cut:
        response["incomplete_details"] = {"reason": "max_output_tokens"}
    if not ticket.fault_is("no-usage"):
        response["usage"] = usage_of(call.tokens())
    return response


def _item(call: Call, index: int, part: Part, *, done: bool) -> dict[str, Any]:
    suffix = f"{call.id.removeprefix('resp_')}{index}"
    status = "completed" if done else "in_progress"
    if part.kind == "thinking":
        return {"id": f"rs_{suffix}", "type": "reasoning", "summary": []}
    if part.kind == "tool":
        return {
            "id": f"fc_{suffix}",
            "type": "function_call",
            "status": status,
            "call_id": f"call_{part.call_id}",
            "name": part.name,
            "arguments": part.text if done else "",
        }
    content = [_text(part.text)] if done else []
    return {"id": f"msg_{suffix}", "type": "message", "status": status, "role": "assistant", "content": content}


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _events(account: Account, ticket: Ticket, call: Call, answer: Answer) -> Iterator[Event]:
    """``response.created`` to ``response.completed``, numbered."""
    number = 0

    def event(kind: str, raw: int, body: dict[str, Any]) -> Event:
        nonlocal number
        data = _encode({"type": kind, "sequence_number": number, **body})
        number += 1
        return Event(b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n", raw)

    started = {"response": _response(ticket, call, "in_progress")}
    yield event("response.created", 0, started)
    yield event("response.in_progress", 0, started)
    raw = 0
    for index, part in enumerate(answer.parts):
        raw += part.overhead
        item = _item(call, index, part, done=False)
        place = {"item_id": item["id"], "output_index": index}
        yield event("response.output_item.added", raw, {"output_index": index, "item": item})
        for kind, body, tokens in _part_events(account, ticket, part, place):
            raw += tokens
            yield event(kind, raw, body)
        item = _item(call, index, part, done=True)
        yield event("response.output_item.done", raw, {"output_index": index, "item": item})
    response = _finished(ticket, call, answer)
    yield event(f"response.{response['status']}", raw, {"response": response})


def _part_events(
    account: Account, ticket: Ticket, part: Part, place: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any], int]]:
    """(event type, body, raw tokens) between an item's ``added`` and ``done``."""
    size, name = account.settings.tokens_per_event, ticket.card.encoding
    if part.kind == "tool":
        for text, tokens in pieces(part.ids, size, name):
            yield "response.function_call_arguments.delta", {**place, "delta": text}, tokens
        yield "response.function_call_arguments.done", {**place, "name": part.name, "arguments": part.text}, 0
    if part.kind == "text":
        place = {**place, "content_index": 0}
        yield "response.content_part.added", {**place, "part": _text("")}, 0
        for text, tokens in pieces(part.ids, size, name):
            yield "response.output_text.delta", {**place, "delta": text, "logprobs": []}, tokens
        yield "response.output_text.done", {**place, "text": part.text, "logprobs": []}, 0
        yield "response.content_part.done", {**place, "part": _text(part.text)}, 0
