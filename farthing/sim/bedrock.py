"""Amazon Bedrock's dialect: ``POST /model/MODEL/converse`` and ``/converse-stream``."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import msgspec

from farthing.sim.account import Account
from farthing.sim.admission import Ticket, admit
from farthing.sim.answer import Answer, Ask, Part, answer_seed, compose, pick_tools
from farthing.sim.anthropic_wire import cached_prompt
from farthing.sim.bedrock_frames import frame
from farthing.sim.billing import Call
from farthing.sim.catalog import Card
from farthing.sim.delivery import Event, deliver, deliver_stream
from farthing.sim.errors import ApiError, invalid
from farthing.sim.http import Headers, Wire
from farthing.sim.invoice import Tokens
from farthing.sim.prompt import Block, Prompt
from farthing.sim.tokens import anthropic_image_tokens, count, image_of, pieces

PATH = "/model/"
FRAMES = (b"content-type", b"application/vnd.amazon.eventstream")
STOP_REASON = {"stop": "end_turn", "length": "max_tokens", "tool": "tool_use", "stop_sequence": "stop_sequence"}
ERRORS = {400: "ValidationException", 403: "AccessDeniedException", 404: "ResourceNotFoundException",
          429: "ThrottlingException", 503: "ServiceUnavailableException"}  # fmt: skip
_BODY = {"messages", "system", "inferenceConfig", "toolConfig", "additionalModelRequestFields", "outputConfig",
         "serviceTier", "requestMetadata", "performanceConfig"}  # fmt: skip
_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_encode = msgspec.json.Encoder().encode


async def converse(account: Account, wire: Wire) -> None:
    """Answer a conversation."""
    path, _, method = str(wire.scope["path"]).rpartition("/")
    model = unquote(path.removeprefix(PATH))
    if method not in ("converse", "converse-stream"):
        raise ApiError(404, "Unknown operation.", kind="not_found_error")
    stream = method == "converse-stream"
    ticket = await admit(account, wire, "aws", f"{PATH}converse", ("chat",), model=model, stream=stream)
    _known(ticket.body, _BODY, "the request")
    prompt = _prompt(ticket.body, ticket.card)
    cap = _cap(ticket, prompt)
    answer = compose(_ask(account, ticket, prompt, cap), ticket.card)
    call = Call(
        account,
        ticket,
        cached_prompt(account, ticket, prompt),
        id=account.next_id("aws-"),
        images=prompt.images,
        raw=answer.raw,
        raw_reasoning=answer.raw_reasoning,
        capped_at=cap if answer.finish == "length" else 0,
    )
    headers: Headers = [(b"x-amzn-requestid", call.id.encode())]
    if stream:
        events = _events(account, ticket, call, answer)
        await deliver_stream(account, wire, ticket, call, events, headers, content_type=FRAMES)
        return
    payload = {
        "output": {
            "message": {"role": "assistant", "content": [_content(part) for part in answer.parts if part.text]}
        },
        "stopReason": STOP_REASON[answer.finish],
        "metrics": {"latencyMs": 1},
    }
    if not ticket.fault_is("no-usage"):
        payload["usage"] = _usage(call.tokens())
    await deliver(account, wire, ticket, call, _encode(payload), headers)


def error_payload(error: ApiError) -> bytes:
    """Amazon's error object."""
    return _encode({"message": error.message})


def error_headers(account: Account, error: ApiError) -> Headers:
    """The error's name, and on a 429 what clients wait by."""
    headers: Headers = [
        (b"x-amzn-requestid", account.next_id("aws-").encode()),
        (b"x-amzn-errortype", ERRORS.get(error.status, "InternalServerException").encode()),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", error.retry_after.encode()))
    return headers


def _known(given: dict[str, Any], names: set[str], where: str) -> None:
    for name in given:
        if name not in names:
            raise invalid(f"The field {name} is not valid in {where}.")


# -- the prompt


def _prompt(body: dict[str, Any], card: Card) -> Prompt:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("A conversation must start with a user message.")
    config = body.get("toolConfig") or {}
    blocks: list[Block] = []
    for tool in config.get("tools") or ():
        _add(blocks, tool, card, "toolConfig.tools")
    for part in body.get("system") or ():
        _add(blocks, part, card, "system")
    called: set[str] = set()
    ask, images, after_tool = "", 0, False
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        _known(message, {"role", "content"}, f"messages.{index}")
        if role != ("user", "assistant")[index % 2]:
            raise invalid("A conversation must alternate between user and assistant roles.")
        if not isinstance(content, list) or not content:
            raise invalid(f"The content field in the Message object at messages.{index} is empty.")
        results = {part["toolResult"]["toolUseId"] for part in content if "toolResult" in part}
        if results != called:
            raise invalid("Expected toolResult blocks for the toolUse blocks of the message before.")
        called = {part["toolUse"]["toolUseId"] for part in content if "toolUse" in part}
        if (results or called) and not config.get("tools"):
            raise invalid("The toolConfig field must be defined when using toolUse and toolResult content blocks.")
        for part in content:
            _add(blocks, part, card, f"messages.{index}.content")
        images += sum("image" in part for part in content)
        if role == "user":
            ask = "\n".join(str(part["text"]) for part in content if "text" in part)
            after_tool = bool(results)
    return Prompt(tuple(blocks), images, ask, after_tool)


def _add(blocks: list[Block], part: dict[str, Any], card: Card, where: str) -> None:
    """One content block, or the cache mark of the block before it."""
    if len(part) != 1:
        raise invalid(f"{where}: a block has exactly one member, not {sorted(part)}")
    ((kind, value),) = part.items()
    if kind == "cachePoint":
        blocks[-1] = msgspec.structs.replace(blocks[-1], ttl=value.get("ttl", "5m"))
        return
    if kind == "image":
        if value["format"] not in ("png", "jpeg", "gif", "webp"):
            raise invalid(f"{where}.image.format: unknown {value['format']!r}")
        size, digest = image_of(str(value["source"]["bytes"]))
        blocks.append(Block(f"image/{digest}", anthropic_image_tokens(size), pseudo=True))
        return
    if kind in ("toolUse", "toolResult") and not _ID.fullmatch(str(value.get("toolUseId"))):
        raise invalid(f"{where}.{kind}.toolUseId: must satisfy [a-zA-Z0-9_-]{{1,64}}")
    if kind == "toolUse" and not isinstance(value.get("input"), dict):
        raise invalid(f"{where}.toolUse.input: must be an object")
    if kind == "text" and not value:
        raise invalid(f"{where}: text content blocks must be non-empty")
    if kind not in ("text", "toolUse", "toolResult", "toolSpec", "reasoningContent"):
        raise invalid(f"{where}: unknown block {kind!r}")
    text = value if kind == "text" else msgspec.json.encode(value).decode()
    blocks.append(Block(text, card.tokens(count(text)) + 4))


# -- the ask


def _cap(ticket: Ticket, prompt: Prompt) -> int:
    card = ticket.card
    config = ticket.body.get("inferenceConfig") or {}
    _known(config, {"maxTokens", "temperature", "topP", "stopSequences"}, "inferenceConfig")
    if prompt.tokens > card.context:
        raise invalid("Input is too long for requested model.")
    temperature = config.get("temperature")
    if temperature is not None and not 0 <= temperature <= 1:
        raise invalid("temperature must be between 0 and 1")
    asked = config.get("maxTokens")
    if asked is not None and (not isinstance(asked, int) or not 1 <= asked <= card.output_max):
        raise invalid(f"The maximum tokens you requested exceeds the model limit of {card.output_max}.")
    return int(asked or 4_096)


def _ask(account: Account, ticket: Ticket, prompt: Prompt, cap: int) -> Ask:
    body = ticket.body
    digest = answer_seed(prompt.digest(), ticket.card, account.settings.seed, ticket.directives.get("nonce", ""))
    tools = _tools(ticket, prompt, digest)
    form = (body.get("outputConfig") or {}).get("textFormat") or {}
    schema = None
    if form:
        schema = msgspec.json.decode(form["structure"]["jsonSchema"]["schema"])
    thinking = (body.get("additionalModelRequestFields") or {}).get("thinking") or {}
    thinks = thinking.get("type") in ("enabled", "adaptive")
    if thinks and not ticket.card.reasoning:
        raise invalid("This model doesn't support thinking.")
    return Ask(
        digest=digest,
        ask=prompt.ask,
        prompt_tokens=prompt.tokens,
        cap=ticket.card.raw_cap(cap),
        stops=tuple((body.get("inferenceConfig") or {}).get("stopSequences") or ()),
        tools=tools,
        schema=schema if not tools else None,
        effort=ticket.directives.get("effort", "low") if thinks else "none",
        thinking_text=True,
        exact_tokens=ticket.number("tokens"),
    )


def _tools(ticket: Ticket, prompt: Prompt, digest: bytes) -> tuple[tuple[str, Any], ...]:
    config = ticket.body.get("toolConfig") or {}
    _known(config, {"tools", "toolChoice"}, "toolConfig")
    specs = [tool["toolSpec"] for tool in config.get("tools") or () if "toolSpec" in tool]
    found = [(str(spec["name"]), spec["inputSchema"]["json"]) for spec in specs]
    choice = config.get("toolChoice") or {"auto": {}}
    if not found or ("auto" in choice and prompt.after_tool):
        return ()
    if "tool" in choice:
        found = [tool for tool in found if tool[0] == choice["tool"]["name"]]
        if not found:
            raise invalid("toolChoice names no tool of this request.")
    return pick_tools(found, ticket.number("tools"), True, digest)


# -- the answer


def _usage(tokens: Tokens) -> dict[str, Any]:
    """Input excludes what the cache read or wrote."""
    written = tokens.cache_write_5m + tokens.cache_write_1h
    usage: dict[str, Any] = {
        "inputTokens": tokens.input,
        "outputTokens": tokens.generated,
        "totalTokens": tokens.prompt + tokens.generated,
    }
    if tokens.cache_read or written:
        usage["cacheReadInputTokens"] = tokens.cache_read
        usage["cacheWriteInputTokens"] = written
        details = (("5m", tokens.cache_write_5m), ("1h", tokens.cache_write_1h))
        usage["cacheDetails"] = [{"ttl": ttl, "inputTokens": many} for ttl, many in details if many]
    return usage


def _content(part: Part) -> dict[str, Any]:
    if part.kind == "thinking":
        return {"reasoningContent": {"reasoningText": {"text": part.text, "signature": f"sig-{len(part.text)}"}}}
    if part.kind == "tool":
        try:
            given = msgspec.json.decode(part.text or "{}")
        except msgspec.DecodeError:
            given = {}
        return {"toolUse": {"toolUseId": f"tooluse_{part.call_id}", "name": part.name, "input": given}}
    return {"text": part.text}


def _events(account: Account, ticket: Ticket, call: Call, answer: Answer) -> Iterator[Event]:
    """The whole stream, ``messageStart`` to ``metadata``."""
    yield _event("messageStart", {"role": "assistant"}, 0)
    raw = 0
    for index, part in enumerate(answer.parts):
        raw += part.overhead
        if part.kind == "tool":  # only tools announce themselves; words just begin
            use = {"toolUseId": f"tooluse_{part.call_id}", "name": part.name}
            yield _event("contentBlockStart", {"contentBlockIndex": index, "start": {"toolUse": use}}, raw)
        for text, tokens in pieces(part.ids, account.settings.tokens_per_event, ticket.card.encoding):
            raw += tokens
            yield _event("contentBlockDelta", {"contentBlockIndex": index, "delta": _delta(part, text)}, raw)
        if part.kind == "thinking":
            signed = {"reasoningContent": {"signature": f"sig-{len(part.text)}"}}
            yield _event("contentBlockDelta", {"contentBlockIndex": index, "delta": signed}, raw)
        yield _event("contentBlockStop", {"contentBlockIndex": index}, raw)
    yield _event("messageStop", {"stopReason": STOP_REASON[answer.finish]}, call.raw)
    last: dict[str, Any] = {"metrics": {"latencyMs": 1}}
    if not ticket.fault_is("no-usage"):
        last["usage"] = _usage(call.tokens())
    yield _event("metadata", last, call.raw)


def _delta(part: Part, text: str) -> dict[str, Any]:
    if part.kind == "thinking":
        return {"reasoningContent": {"text": text}}
    return {"toolUse": {"input": text}} if part.kind == "tool" else {"text": text}


def _event(kind: str, body: dict[str, Any], raw: int) -> Event:
    return Event(frame(kind, _encode(body)), raw)
