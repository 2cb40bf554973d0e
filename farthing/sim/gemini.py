"""Gemini's dialect: ``POST /v1beta/models/MODEL:generateContent`` and ``:streamGenerateContent?alt=sse``."""

from collections.abc import Iterator
from typing import Any

import msgspec

from farthing.sim.account import Account
from farthing.sim.admission import Ticket, admit
from farthing.sim.answer import EFFORT, Answer, Ask, Part, answer_seed, compose, pick_tools
from farthing.sim.billing import Call
from farthing.sim.catalog import Card
from farthing.sim.delivery import Event, deliver, deliver_stream
from farthing.sim.errors import ApiError, invalid
from farthing.sim.http import Headers, Wire
from farthing.sim.invoice import Tokens
from farthing.sim.openai_wire import cached_prompt
from farthing.sim.prompt import Block, Prompt
from farthing.sim.tokens import count, image_of, pieces

PATH = "/v1beta/models/"
IMAGE_TOKENS = 258
FINISH = {"stop": "STOP", "stop_sequence": "STOP", "tool": "STOP", "length": "MAX_TOKENS"}
STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
          429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}  # fmt: skip
_BODY = {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings"}
_CONFIG = {
    "temperature", "topP", "topK", "maxOutputTokens", "stopSequences", "seed", "presencePenalty", "frequencyPenalty",
    "responseMimeType", "responseJsonSchema", "responseSchema", "thinkingConfig", "candidateCount",
}  # fmt: skip
_encode = msgspec.json.Encoder().encode


async def generate(account: Account, wire: Wire) -> None:
    """Answer a prompt."""
    model, _, method = str(wire.scope["path"]).removeprefix(PATH).partition(":")
    if method not in ("generateContent", "streamGenerateContent"):
        raise ApiError(404, f"Method {method!r} is not found.", kind="not_found_error")
    stream = method == "streamGenerateContent"
    ticket = await admit(account, wire, "google", PATH, ("chat",), model=model, stream=stream)
    config = _checked(ticket.body)
    prompt = _prompt(ticket.body, ticket.card)
    cap = _cap(ticket, config, prompt)
    ask = _ask(account, ticket, config, prompt, cap)
    answer = compose(ask, ticket.card)
    call = Call(
        account,
        ticket,
        cached_prompt(account, ticket, prompt),
        id=account.next_id("gem-"),
        images=prompt.images,
        raw=answer.raw,
        raw_reasoning=answer.raw_reasoning,
    )
    headers: Headers = [(b"x-gemini-service-tier", b"standard")]
    if stream:
        await deliver_stream(account, wire, ticket, call, _events(account, ticket, call, answer), headers)
        return
    parts = [_part(part) for part in answer.parts if part.text]
    payload = _payload(ticket, call, parts, FINISH[answer.finish], call.tokens())
    await deliver(account, wire, ticket, call, _encode(payload), headers)


def error_payload(error: ApiError) -> bytes:
    """Google's error object."""
    status = STATUS.get(error.status, "UNKNOWN")
    shape: dict[str, Any] = {"code": error.status, "message": error.message, "status": status}
    if error.retry_after is not None:
        kind = "type.googleapis.com/google.rpc.RetryInfo"
        shape["details"] = [{"@type": kind, "retryDelay": f"{error.retry_after}s"}]
    return _encode({"error": shape})


def _known(given: dict[str, Any], names: set[str], where: str) -> None:
    for name in given:
        if name not in names:
            raise invalid(f'Invalid JSON payload received. Unknown name "{name}" at {where!r}: Cannot find field.')


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    _known(body, _BODY, "")
    config: dict[str, Any] = body.get("generationConfig") or {}
    _known(config, _CONFIG, "generation_config")
    if len(config.get("stopSequences") or ()) > 5:
        raise invalid("* GenerateContentRequest.generation_config.stop_sequences: at most 5")
    return config


# -- the prompt


def _prompt(body: dict[str, Any], card: Card) -> Prompt:
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        raise invalid("* GenerateContentRequest.contents: contents is not specified")
    blocks: list[Block] = []
    if body.get("tools"):
        text = msgspec.json.encode(body["tools"]).decode()
        blocks.append(Block(text, count(text)))
    system = (body.get("systemInstruction") or {}).get("parts") or []
    blocks.extend(_block(part, card) for part in system)
    called: list[str] = []
    ask, images, after_tool = "", 0, False
    for index, content in enumerate(contents):
        parts, role = content.get("parts"), content.get("role")
        _known(content, {"role", "parts"}, f"contents[{index}]")
        if role not in ("user", "model") or not isinstance(parts, list) or not parts:
            raise invalid("Please use a valid role: user, model; and at least one part.")
        answered = [part["functionResponse"]["name"] for part in parts if "functionResponse" in part]
        if answered != called:
            raise invalid(
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )
        called = [part["functionCall"]["name"] for part in parts if "functionCall" in part]
        blocks.append(Block(role, 2, pseudo=True))
        blocks.extend(_block(part, card) for part in parts)
        images += sum("inlineData" in part for part in parts)
        if role == "user":
            ask = "\n".join(str(part["text"]) for part in parts if "text" in part)
            after_tool = bool(answered)
    return Prompt(tuple(blocks), images, ask, after_tool)


def _block(part: dict[str, Any], card: Card) -> Block:
    _known(part, {"text", "inlineData", "functionCall", "functionResponse", "thoughtSignature", "thought"}, "parts")
    if "text" in part:
        return Block(str(part["text"]), card.tokens(count(str(part["text"]))))
    if "inlineData" in part:
        _known(part["inlineData"], {"mimeType", "data"}, "inline_data")
        digest = image_of(str(part["inlineData"]["data"]))[1]
        return Block(f"image/{digest}", IMAGE_TOKENS, pseudo=True)
    kind = "functionCall" if "functionCall" in part else "functionResponse"
    content = part[kind].get("args" if kind == "functionCall" else "response")
    if not isinstance(content, dict):
        raise invalid(f"{kind} must hold an object")
    text = f"{part[kind]['name']} {msgspec.json.encode(content).decode()}"
    return Block(text, count(text))


# -- the ask


def _cap(ticket: Ticket, config: dict[str, Any], prompt: Prompt) -> int:
    card = ticket.card
    if prompt.tokens >= card.context:
        raise invalid(f"The input token count ({prompt.tokens}) exceeds the maximum allowed ({card.context}).")
    asked = config.get("maxOutputTokens")
    if asked is not None and (not isinstance(asked, int) or asked < 1):
        raise invalid("maxOutputTokens must be a positive integer")
    return min(int(asked or card.output_max), card.output_max)


def _ask(account: Account, ticket: Ticket, config: dict[str, Any], prompt: Prompt, cap: int) -> Ask:
    nonce = ticket.directives.get("nonce", "")
    digest = answer_seed(prompt.digest(), ticket.card, account.settings.seed, config.get("seed"), nonce)
    tools = _tools(ticket, prompt, digest)
    wants_json = config.get("responseMimeType") == "application/json"
    schema = config.get("responseJsonSchema") or {"type": "object", "properties": {"answer": {"type": "string"}}}
    return Ask(
        digest=digest,
        ask=prompt.ask,
        prompt_tokens=prompt.tokens,
        cap=cap,
        stops=tuple(config.get("stopSequences") or ()),
        tools=tools,
        schema=schema if wants_json and not tools else None,
        effort=_effort(ticket, config),
        thinking_text=bool((config.get("thinkingConfig") or {}).get("includeThoughts")),
        exact_tokens=ticket.number("tokens"),
    )


def _effort(ticket: Ticket, config: dict[str, Any]) -> str:
    thinking = config.get("thinkingConfig") or {}
    if not ticket.card.reasoning or thinking.get("thinkingBudget") == 0:
        return "none"
    effort = ticket.directives.get("effort", thinking.get("thinkingLevel") or "low")
    if effort not in EFFORT:
        raise invalid(f"thinking_level: unknown {effort!r}")
    return str(effort)


def _tools(ticket: Ticket, prompt: Prompt, digest: bytes) -> tuple[tuple[str, Any], ...]:
    body = ticket.body
    declared = [one for tool in body.get("tools") or () for one in tool.get("functionDeclarations") or ()]
    found = [(str(one["name"]), one.get("parametersJsonSchema") or {"type": "object"}) for one in declared]
    choice = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    mode, allowed = choice.get("mode", "AUTO"), choice.get("allowedFunctionNames")
    if not found or mode == "NONE" or (mode == "AUTO" and prompt.after_tool):
        return ()
    if allowed:
        found = [tool for tool in found if tool[0] in allowed]
        if not found:
            raise invalid("allowed_function_names must be names of declared functions")
    return pick_tools(found, ticket.number("tools"), True, digest)


# -- the answer


def _payload(
    ticket: Ticket, call: Call, parts: list[dict[str, Any]], finish: str | None, tokens: Tokens
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    payload: dict[str, Any] = {"candidates": [candidate], "modelVersion": ticket.card.served, "responseId": call.id}
    if not ticket.fault_is("no-usage"):
        payload["usageMetadata"] = _usage(tokens)
    return payload


def _usage(tokens: Tokens) -> dict[str, Any]:
    """Cached tokens are part of the prompt's; thoughts stand beside the candidates."""
    usage = {"promptTokenCount": tokens.prompt, "totalTokenCount": tokens.prompt + tokens.generated}
    if tokens.output:
        usage["candidatesTokenCount"] = tokens.output
    if tokens.cache_read:
        usage["cachedContentTokenCount"] = tokens.cache_read
    if tokens.reasoning:
        usage["thoughtsTokenCount"] = tokens.reasoning
    return usage


def _part(part: Part, text: str | None = None) -> dict[str, Any]:
    if part.kind == "tool":
        try:
            args = msgspec.json.decode(part.text or "{}")
        except msgspec.DecodeError:
            args = {}
        return {"functionCall": {"name": part.name, "args": args}, "thoughtSignature": part.call_id}
    said = part.text if text is None else text
    return {"text": said, "thought": True} if part.kind == "thinking" else {"text": said}


def _events(account: Account, ticket: Ticket, call: Call, answer: Answer) -> Iterator[Event]:
    """The whole stream; usage is cumulative, and only the last event has a reason for the end."""
    raw = 0
    for part in answer.parts:
        raw += part.overhead
        if part.kind == "tool":
            raw += len(part.ids)
            yield _event(ticket, call, [_part(part)], None, raw)
            continue
        for text, tokens in pieces(part.ids, account.settings.tokens_per_event, ticket.card.encoding):
            raw += tokens
            yield _event(ticket, call, [_part(part, text)], None, raw)
    yield _event(ticket, call, [{"text": ""}], FINISH[answer.finish], call.raw)


def _event(ticket: Ticket, call: Call, parts: list[dict[str, Any]], finish: str | None, raw: int) -> Event:
    payload = _payload(ticket, call, parts, finish, call.tokens(raw))
    return Event(b"data: " + _encode(payload) + b"\r\n\r\n", raw)
