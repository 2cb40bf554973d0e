"""``POST /v1/messages`` and ``POST /v1/messages/count_tokens``."""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import msgspec

from farthing.sim.account import Account
from farthing.sim.admission import Ticket, admit, positive
from farthing.sim.answer import Answer, Ask, Part, answer_seed, compose, pick_tools
from farthing.sim.anthropic_wire import answer_headers, cached_prompt, geo_of, messages_prompt, usage_of
from farthing.sim.billing import Call
from farthing.sim.delivery import Event, deliver, deliver_stream
from farthing.sim.errors import invalid
from farthing.sim.http import JSON, Wire
from farthing.sim.prompt import Prompt
from farthing.sim.tokens import pieces

STOP_REASON = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use", "stop_sequence": "stop_sequence"}
THINKING_MIN = 1_024
_encode = msgspec.json.Encoder().encode


async def messages(account: Account, wire: Wire) -> None:
    """Answer a message."""
    ticket = await admit(account, wire, "anthropic", "/v1/messages", ("chat",))
    card = ticket.card
    prompt = messages_prompt(ticket.body, card)
    total = prompt.tokens
    if total > card.context:
        raise invalid(f"prompt is too long: {total} tokens > {card.context} maximum")
    capped_at = _max_tokens(ticket)
    geo, tier = geo_of(ticket), _tier(ticket)
    answer = compose(_ask(account, ticket, prompt, total, capped_at), card)
    call = Call(
        account,
        ticket,
        cached_prompt(account, ticket, prompt),
        id=account.next_id("msg_"),
        wanted_tier=tier,
        geo=geo,
        images=prompt.images,
        raw=answer.raw,
        raw_reasoning=answer.raw_reasoning,
        capped_at=capped_at if answer.finish == "length" else 0,
    )
    headers = answer_headers(account, ticket)
    if ticket.stream:
        events = _events(account, ticket, call, answer, geo)
        await deliver_stream(account, wire, ticket, call, events, headers)
        return
    payload = _message(ticket, call)
    payload["content"] = [_content(part) for part in answer.parts if part.kind != "text" or part.text]
    payload["stop_reason"] = STOP_REASON[answer.finish]
    payload["stop_sequence"] = answer.stop_sequence
    if not ticket.fault_is("no-usage"):
        payload["usage"] = usage_of(call.tokens(), call.tier, geo)
    await deliver(account, wire, ticket, call, _encode(payload), headers)


async def count_tokens(account: Account, wire: Wire) -> None:
    """Count a prompt; free, so nothing is billed."""
    ticket = await admit(account, wire, "anthropic", "/v1/messages/count_tokens", ("chat",))
    prompt = messages_prompt(ticket.body, ticket.card)
    payload = _encode({"input_tokens": prompt.tokens})
    await wire.reply(200, payload, [JSON, *answer_headers(account, ticket)])


def _max_tokens(ticket: Ticket) -> int:
    asked = positive(ticket.body, "max_tokens")
    if asked is None:
        raise invalid("max_tokens: Field required")
    if asked > ticket.card.output_max:
        raise invalid(
            f"max_tokens: {asked} > {ticket.card.output_max}, which is the maximum allowed number of output tokens "
            f"for {ticket.requested}"
        )
    return asked


def _tier(ticket: Ticket) -> str:
    wanted = ticket.body.get("service_tier")
    if wanted not in (None, "auto", "standard_only"):
        raise invalid("service_tier: Input should be 'auto' or 'standard_only'")
    # Priority needs committed capacity, which this account has not bought; a batch is asked for by directive.
    return "batch" if ticket.directives.get("tier") == "batch" else "default"


def _effort(ticket: Ticket, capped_at: int) -> str:
    thinking = ticket.body.get("thinking") or {}
    kind = thinking.get("type", "disabled")
    if kind == "disabled":
        return "none"
    if kind not in ("enabled", "adaptive"):
        raise invalid(f"thinking: Input tag {kind!r} does not match any of the expected tags")
    if not ticket.card.reasoning:
        raise invalid(f"thinking: {ticket.requested} does not support thinking")
    budget = thinking.get("budget_tokens", THINKING_MIN)
    if kind == "enabled" and (not isinstance(budget, int) or budget < THINKING_MIN):
        raise invalid(f"thinking.budget_tokens: Input should be greater than or equal to {THINKING_MIN}")
    if kind == "enabled" and budget >= capped_at:
        raise invalid("max_tokens must be greater than thinking.budget_tokens")
    return ticket.directives.get("effort", "low" if budget < 4_096 else "medium")


def _tools(ticket: Ticket, prompt: Prompt, digest: bytes) -> tuple[tuple[str, Any], ...]:
    choice = ticket.body.get("tool_choice") or {"type": "auto"}
    found = [
        (str(tool["name"]), tool.get("input_schema") or {"type": "object"})
        for tool in ticket.body.get("tools") or ()
        if "input_schema" in tool and "name" in tool
    ]
    kind = choice.get("type")
    if not found or kind == "none" or (kind == "auto" and prompt.after_tool):
        return ()
    if kind == "tool":
        found = [tool for tool in found if tool[0] == choice.get("name")]
        if not found:
            raise invalid(f"tool_choice.name: Tool '{choice.get('name')}' not found in provided tools")
    return pick_tools(found, ticket.number("tools"), not choice.get("disable_parallel_tool_use"), digest)


def _ask(account: Account, ticket: Ticket, prompt: Prompt, total: int, capped_at: int) -> Ask:
    body = ticket.body
    nonce = ticket.directives.get("nonce", "")
    digest = answer_seed(prompt.digest(), ticket.card, account.settings.seed, nonce)
    stops = body.get("stop_sequences") or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise invalid("stop_sequences: Input should be a valid list of strings")
    wanted = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    tools = _tools(ticket, prompt, digest)
    return Ask(
        digest=digest,
        ask=prompt.ask,
        prompt_tokens=total,
        cap=ticket.card.raw_cap(capped_at),
        stops=tuple(stops),
        tools=tools,
        schema=None if tools else wanted.get("schema"),
        effort=_effort(ticket, capped_at),
        thinking_text=True,
        exact_tokens=ticket.number("tokens"),
    )


def _message(ticket: Ticket, call: Call) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "message",
        "role": "assistant",
        "model": ticket.card.served,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _signature(part: Part) -> str:
    return blake2b(part.text.encode(), digest_size=32).hexdigest()


def _content(part: Part) -> dict[str, Any]:
    if part.kind == "thinking":
        return {"type": "thinking", "thinking": part.text, "signature": _signature(part)}
    if part.kind == "tool":
        # A call cut short by max_tokens has unfinished arguments, which are no JSON object.
        try:
            given = msgspec.json.decode(part.text or "{}")
        except msgspec.DecodeError:
            given = {}
        return {"type": "tool_use", "id": f"toolu_{part.call_id}", "name": part.name, "input": given}
    return {"type": "text", "text": part.text}


def _event(kind: str, body: dict[str, Any], raw: int) -> Event:
    return Event(b"event: " + kind.encode() + b"\ndata: " + _encode({"type": kind, **body}) + b"\n\n", raw)


def _events(account: Account, ticket: Ticket, call: Call, answer: Answer, geo: str) -> Iterator[Event]:
    """The whole stream, ``message_start`` to ``message_stop``."""
    settings = account.settings
    opening = _message(ticket, call)
    if not ticket.fault_is("no-usage"):
        opening["usage"] = usage_of(call.tokens(0), call.tier, geo) | {"output_tokens": 1}
    yield _event("message_start", {"message": opening}, 0)
    raw = since_ping = 0
    visible = [part for part in answer.parts if part.kind != "text" or part.text]
    for index, part in enumerate(visible):
        raw += part.overhead
        yield _event("content_block_start", {"index": index, "content_block": _blank(part)}, raw)
        if index == 0:
            yield _event("ping", {}, raw)
        for text, tokens in pieces(part.ids, settings.tokens_per_event, ticket.card.encoding):
            raw += tokens
            yield _event("content_block_delta", {"index": index, "delta": _delta(part, text)}, raw)
            since_ping += 1
            if since_ping % settings.ping_every == 0:
                yield _event("ping", {}, raw)
        if part.kind == "thinking":
            signed = {"type": "signature_delta", "signature": _signature(part)}
            yield _event("content_block_delta", {"index": index, "delta": signed}, raw)
        yield _event("content_block_stop", {"index": index}, raw)
    ending = {"stop_reason": STOP_REASON[answer.finish], "stop_sequence": answer.stop_sequence}
    closing: dict[str, Any] = {"delta": ending}
    if not ticket.fault_is("no-usage"):
        closing["usage"] = _closing_usage(call)
    yield _event("message_delta", closing, call.raw)
    yield _event("message_stop", {}, call.raw)


def _closing_usage(call: Call) -> dict[str, Any]:
    """Cumulative totals, without the split by TTL, the tier or the region: those came with ``message_start``."""
    usage = usage_of(call.tokens(), call.tier, "")
    del usage["cache_creation"], usage["service_tier"]
    return usage


def _blank(part: Part) -> dict[str, Any]:
    if part.kind == "thinking":
        return {"type": "thinking", "thinking": "", "signature": ""}
    if part.kind == "tool":
        return {"type": "tool_use", "id": f"toolu_{part.call_id}", "name": part.name, "input": {}}
    return {"type": "text", "text": ""}


def _delta(part: Part, text: str) -> dict[str, Any]:
    if part.kind == "thinking":
        return {"type": "thinking_delta", "thinking": text}
    if part.kind == "tool":
        return {"type": "input_json_delta", "partial_json": text}
    return {"type": "text_delta", "text": text}
