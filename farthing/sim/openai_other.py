"""``/v1/completions``, ``/v1/embeddings`` and ``/v1/models``."""

import math
from array import array
from base64 import b64encode
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import msgspec

from farthing.sim.account import Account
from farthing.sim.admission import Ticket, admit, api_key, positive
from farthing.sim.answer import Answer, compose
from farthing.sim.billing import Call
from farthing.sim.delivery import Event, deliver, deliver_stream
from farthing.sim.errors import ApiError, invalid
from farthing.sim.http import JSON, Headers, Wire
from farthing.sim.invoice import Tokens
from farthing.sim.openai_ask import ask_of, cap_of
from farthing.sim.openai_wire import answer_headers, usage_of, wanted_tier
from farthing.sim.prompt import Block, Prompt
from farthing.sim.tokens import count, encode, pieces

COMPLETION_DEFAULT_CAP = 16
EMBEDDING_INPUTS_MAX = 2_048
MODELS_SINCE = 1_735_689_600
_FINISH = {"stop": "stop", "stop_sequence": "stop", "length": "length"}
_encode = msgspec.json.Encoder().encode
Texts = list[str | list[int]]


def _inputs(value: Any, name: str) -> Texts:
    """A string, an array of strings, an array of token ids or an array of such arrays, as a list of inputs."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, int) for item in value):
            return [value]
        if all(isinstance(item, str) or (isinstance(item, list) and item) for item in value):
            return value
    raise invalid(f"Invalid '{name}': expected a string, strings, or arrays of token ids, not empty.", param=name)


def _count(item: str | list[int], encoding: str) -> int:
    return count(item, encoding) if isinstance(item, str) else len(item)


def _label(item: str | list[int]) -> str:
    return item if isinstance(item, str) else repr(item)


async def completions(account: Account, wire: Wire) -> None:
    """``POST /v1/completions``, the endpoint of instruct models."""
    ticket = await admit(account, wire, "openai", "/v1/completions", ("completion",))
    body, card = ticket.body, ticket.card
    prompts = _inputs(body.get("prompt", "<|endoftext|>"), "prompt")
    blocks = tuple(Block(_label(item), _count(item, card.encoding)) for item in prompts)
    total = sum(block.tokens for block in blocks)
    cap, asked = cap_of(ticket, total, "max_tokens")
    cap = cap if asked else min(cap, COMPLETION_DEFAULT_CAP)
    answers = []
    for block in blocks:
        prompt = Prompt((block,), ask=block.text)
        answers += [
            compose(ask_of(ticket, prompt, block.tokens, cap, account.settings.seed, index), card)
            for index in range(positive(body, "n") or 1)
        ]
    raw = sum(answer.raw for answer in answers)
    call_id = account.next_id("cmpl-")
    call = Call(account, ticket, Tokens(input=total), id=call_id, wanted_tier=wanted_tier(ticket), raw=raw)
    headers = answer_headers(account, ticket)
    base = {"id": call.id, "object": "text_completion", "created": ticket.at // 1000, "model": card.served}
    if ticket.stream:
        events = _completion_events(account, ticket, call, answers, base)
        await deliver_stream(account, wire, ticket, call, events, headers)
        return
    choices = [
        {"index": index, "text": answer.text, "logprobs": None, "finish_reason": _FINISH[answer.finish]}
        for index, answer in enumerate(answers)
    ]
    payload: dict[str, Any] = {**base, "choices": choices}
    if not ticket.fault_is("no-usage"):
        payload["usage"] = usage_of(call.tokens())
    await deliver(account, wire, ticket, call, _encode(payload), headers)


def _completion_events(
    account: Account, ticket: Ticket, call: Call, answers: list[Answer], base: dict[str, Any]
) -> Iterator[Event]:
    with_usage = (ticket.body.get("stream_options") or {}).get("include_usage") is True
    empty: dict[str, Any] = {"usage": None} if with_usage else {}
    raw = 0

    def event(choices: list[Any], extra: dict[str, Any]) -> Event:
        return Event(b"data: " + _encode({**base, "choices": choices, **extra}) + b"\n\n", raw)

    for index, answer in enumerate(answers):
        for part in answer.parts:
            for text, tokens in pieces(part.ids, account.settings.tokens_per_event, ticket.card.encoding):
                raw += tokens
                yield event([{"index": index, "text": text, "logprobs": None, "finish_reason": None}], empty)
        ending = {"index": index, "text": "", "logprobs": None, "finish_reason": _FINISH[answer.finish]}
        yield event([ending], empty)
    if with_usage and not ticket.fault_is("no-usage"):
        yield event([], {"usage": usage_of(call.tokens())})
    yield Event(b"data: [DONE]\n\n", raw)


async def embeddings(account: Account, wire: Wire) -> None:
    """``POST /v1/embeddings``."""
    ticket = await admit(account, wire, "openai", "/v1/embeddings", ("embedding",))
    body, card = ticket.body, ticket.card
    items = _inputs(body.get("input"), "input")
    if len(items) > EMBEDDING_INPUTS_MAX:
        raise invalid(f"Invalid 'input': at most {EMBEDDING_INPUTS_MAX} inputs in one request.", param="input")
    dimensions = positive(body, "dimensions") or card.dimensions
    if dimensions > card.dimensions:
        raise invalid(f"Invalid 'dimensions': {ticket.requested} has at most {card.dimensions}.", param="dimensions")
    style = body.get("encoding_format") or "float"
    if style not in ("float", "base64"):
        raise invalid("Invalid 'encoding_format': use 'float' or 'base64'.", param="encoding_format")
    counts = [_count(item, card.encoding) for item in items]
    if max(counts) > card.context:
        raise invalid(f"This model's maximum context length is {card.context} tokens.", param="input")
    call = Call(
        account, ticket, Tokens(input=sum(counts)), id=account.next_id("embd-"), wanted_tier=wanted_tier(ticket)
    )
    data = []
    for index, item in enumerate(items):
        vector = embedding(_label(item), dimensions)
        value: Any = b64encode(vector.tobytes()).decode() if style == "base64" else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": value})
    payload: dict[str, Any] = {"object": "list", "data": data, "model": card.served}
    if not ticket.fault_is("no-usage"):
        payload["usage"] = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
    # An embedding answer has no id of its own: the invoice names it by the request id header.
    headers: Headers = [(b"x-request-id", call.id.encode()), *answer_headers(account, ticket)[1:]]
    await deliver(account, wire, ticket, call, _encode(payload), headers)


@lru_cache(maxsize=1_024)
def embedding(text: str, dimensions: int) -> "array[float]":
    """A unit vector of 32-bit floats; texts that share words and word pairs point in similar directions."""
    ids = encode(text.lower(), "o200k")
    features = [*ids, *(first * 1_000_003 + second for first, second in pairwise(ids))] or [0]
    vector = [0.0] * dimensions
    for feature in features:
        state = (feature * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF
        for _ in range(8):
            state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) & 0xFFFFFFFFFFFFFFFF
            vector[(state >> 33) % dimensions] += 1.0 if state >> 63 else -1.0
    norm = math.sqrt(sum(value * value for value in vector)) or 1.0
    return array("f", [value / norm for value in vector])


def model_object(served: str) -> dict[str, Any]:
    """OpenAI's model object."""
    return {"id": served, "object": "model", "created": MODELS_SINCE, "owned_by": "system"}


async def models(account: Account, wire: Wire) -> None:
    """``GET /v1/models`` and ``GET /v1/models/{id}``, in the dialect that the ``anthropic-version`` header picks."""
    vendor = "anthropic" if wire.header(b"anthropic-version") else "openai"
    api_key(account, wire, "anthropic" if vendor == "anthropic" else "openai")
    name = str(wire.scope["path"]).removeprefix("/v1/models").strip("/")
    cards = [card for card in account.catalog.cards if card.provider == vendor]
    if name:
        card = account.catalog.find(vendor, name)
        if card is None:
            raise ApiError(404, f"model: {name}", kind="not_found_error", code="model_not_found")
        await wire.reply(200, _encode(_listed(vendor, card.served)), [JSON])
        return
    names = sorted({name for card in cards for name in (card.id, card.served)})
    payload: dict[str, Any] = {"object": "list", "data": [_listed(vendor, name) for name in names]}
    if vendor == "anthropic":
        del payload["object"]
        payload |= {"has_more": False, "first_id": names[0], "last_id": names[-1]}
    await wire.reply(200, _encode(payload), [JSON])


def _listed(vendor: str, name: str) -> dict[str, Any]:
    if vendor == "openai":
        return model_object(name)
    title = name.replace("-", " ").title()
    return {"type": "model", "id": name, "display_name": title, "created_at": "2025-01-01T00:00:00Z"}
