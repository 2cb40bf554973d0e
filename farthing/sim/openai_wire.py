"""OpenAI's dialect: errors, headers, prompts and usage, shared by its endpoints."""

from typing import Any

import msgspec

from farthing.sim.account import Account
from farthing.sim.admission import Ticket
from farthing.sim.catalog import Card
from farthing.sim.errors import ApiError, invalid
from farthing.sim.http import Headers
from farthing.sim.invoice import Tokens
from farthing.sim.prompt import Block, Prompt
from farthing.sim.tokens import count, image_of, openai_image_tokens

PER_MESSAGE = 3
PRIMING = 3
TOOLS_OVERHEAD = 12
TIERS = ("auto", "default", "flex", "scale", "priority", "fast")
LIMIT_REQUESTS = 10_000
LIMIT_TOKENS = 2_000_000
_TYPES = {
    "rate_limit_error": "requests",
    "api_error": "server_error",
    "overloaded_error": "server_error",
    "timeout_error": "server_error",
}


def error_payload(error: ApiError) -> bytes:
    """OpenAI's error object."""
    kind = _TYPES.get(error.kind, "invalid_request_error")
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": body})


def error_headers(account: Account, error: ApiError) -> Headers:
    """Request id, and on a 429 what the SDKs wait by."""
    headers: Headers = [(b"x-request-id", account.next_id("req_").encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", error.retry_after.encode()))
    if error.status == 429:
        headers += _limits(0)
    return headers


def _limits(remaining: int) -> Headers:
    return [
        (b"x-ratelimit-limit-requests", str(LIMIT_REQUESTS).encode()),
        (b"x-ratelimit-limit-tokens", str(LIMIT_TOKENS).encode()),
        (b"x-ratelimit-remaining-requests", str(min(remaining, LIMIT_REQUESTS)).encode()),
        (b"x-ratelimit-remaining-tokens", str(remaining and LIMIT_TOKENS - 1_000).encode()),
        (b"x-ratelimit-reset-requests", b"6ms"),
        (b"x-ratelimit-reset-tokens", b"30ms"),
    ]


_OK_LIMITS = _limits(LIMIT_REQUESTS - 1)


def answer_headers(account: Account, ticket: Ticket) -> Headers:
    """Headers of a good answer."""
    return [
        (b"x-request-id", account.next_id("req_").encode()),
        (b"openai-version", b"2020-10-01"),
        (b"openai-organization", b"org-" + ticket.key.encode()),
        *_OK_LIMITS,
    ]


def wanted_tier(ticket: Ticket) -> str:
    """The tier to serve at, before the price list has its say: ``auto`` is ``default``, ``fast`` is ``priority``."""
    asked = ticket.body.get("service_tier") or "auto"
    tier = ticket.directives.get("tier", asked)
    if tier == "batch" and asked != "batch":  # nobody can ask for one in a body
        return "batch"
    for wanted in (asked, tier):
        if wanted not in TIERS:
            message = f"Invalid service_tier argument: {wanted!r}; use one of {', '.join(TIERS)}"
            raise invalid(message, param="service_tier")
    return {"auto": "default", "scale": "default", "fast": "priority"}.get(tier, tier)


class PromptBuilder:
    """Collects blocks in the order the model reads them: tools first, then the messages."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._blocks: list[Block] = []
        self._images = 0
        self.ask = ""
        self.after_tool = False

    def tools(self, tools: list[Any]) -> None:
        """Tool definitions, as their JSON."""
        text = msgspec.json.encode(tools).decode()
        self._blocks.append(Block("tools", TOOLS_OVERHEAD, pseudo=True))
        self._blocks.append(Block(text, count(text)))

    def opening(self, role: str, name: str = "") -> None:
        """A message's frame."""
        tokens = PER_MESSAGE + count(role) + (1 + count(name) if name else 0)
        self._blocks.append(Block(f"{role}\0{name}", tokens, pseudo=True))
        self.after_tool = role in ("tool", "function")

    def text(self, text: str) -> None:
        """Text as it stands."""
        if text:
            self._blocks.append(Block(text, count(text)))

    def image(self, url: str, detail: str) -> None:
        """A picture, by the tile formula."""
        size, digest = image_of(url)
        tokens = openai_image_tokens(size, detail, self._card.image_base, self._card.image_tile)
        self._blocks.append(Block(f"image/{detail}/{digest}", tokens, pseudo=True))
        self._images += 1

    def build(self) -> Prompt:
        """The finished prompt."""
        blocks = (*self._blocks, Block("priming", PRIMING, pseudo=True))
        return Prompt(blocks, self._images, self.ask, self.after_tool)


def chat_prompt(body: dict[str, Any], card: Card) -> Prompt:
    """The prompt of a chat completion; raises a 400 that names the wrong message."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("Invalid 'messages': expected a non-empty array.", param="messages")
    builder = PromptBuilder(card)
    if body.get("tools"):
        builder.tools(body["tools"])
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise invalid(f"Invalid '{where}': expected an object with a role.", param=where)
        role = message["role"]
        if role not in ("system", "developer", "user", "assistant", "tool", "function"):
            raise invalid(f"Invalid value: '{role}' for {where}.role.", param=f"{where}.role")
        builder.opening(role, message.get("name") or "")
        _content(builder, message.get("content"), where)
        if role == "user":
            builder.ask = text_of(message.get("content"))
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            builder.text(str(function.get("name", "")))
            builder.text(str(function.get("arguments", "")))
    return builder.build()


def _content(builder: PromptBuilder, content: Any, where: str) -> None:
    if content is None:
        return
    if isinstance(content, str):
        builder.text(content)
        return
    if not isinstance(content, list):
        raise invalid(f"Invalid '{where}.content': expected a string or an array of parts.", param=f"{where}.content")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text", "output_text", "refusal"):
            builder.text(str(part.get("text") or part.get("refusal") or ""))
        elif kind == "image_url":
            picture = part.get("image_url") or {}
            builder.image(str(picture.get("url", "")), str(picture.get("detail") or "auto"))
        elif kind == "input_image":
            builder.image(str(part.get("image_url") or part.get("file_id") or ""), str(part.get("detail") or "auto"))
        else:
            raise invalid(f"Invalid value: '{kind}' for {where}.content[].type.", param=f"{where}.content")


def text_of(content: Any) -> str:
    """The text of a message's content, pictures left out."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return ""


def responses_prompt(body: dict[str, Any], card: Card) -> Prompt:
    """The prompt of a Responses call: instructions, then input items."""
    given = body.get("input")
    if not isinstance(given, (str, list)) or not given:
        raise invalid("Missing required parameter: 'input'.", param="input", code="missing_required_parameter")
    builder = PromptBuilder(card)
    if body.get("tools"):
        builder.tools(body["tools"])
    if body.get("instructions"):
        builder.opening("system")
        builder.text(str(body["instructions"]))
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    for index, item in enumerate(items):
        where = f"input[{index}]"
        if not isinstance(item, dict):
            raise invalid(f"Invalid '{where}': expected an object.", param=where)
        kind = item.get("type") or "message"
        if kind == "message":
            builder.opening(str(item.get("role", "user")))
            _content(builder, item.get("content"), where)
            if item.get("role") == "user":
                builder.ask = text_of(item.get("content"))
        elif kind == "function_call_output":
            builder.opening("tool")
            output = item.get("output")
            builder.text(output if isinstance(output, str) else text_of(output))
        else:
            builder.opening("assistant")
            builder.text(str(item.get("name") or ""))
            builder.text(str(item.get("arguments") or ""))
    return builder.build()


def cached_prompt(account: Account, ticket: Ticket, prompt: Prompt) -> Tokens:
    """The prompt's token classes after the automatic prompt cache."""
    card = ticket.card
    charged = "cache_write" in card.prices["default"]
    scope = f"{ticket.key}/{card.id}"
    read, written = account.openai_cache.use(scope, prompt, card.cache_min, ticket.at, charged=charged)
    written = written if charged else 0
    return Tokens(input=prompt.tokens - read - written, cache_read=read, cache_write=written)


def usage_of(tokens: Tokens) -> dict[str, Any]:
    """``usage`` of chat completions and completions: cached and reasoning tokens are parts of their totals."""
    prompt = {"cached_tokens": tokens.cache_read, "audio_tokens": 0}
    if tokens.cache_write:
        prompt["cache_write_tokens"] = tokens.cache_write
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.generated,
        "total_tokens": tokens.prompt + tokens.generated,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
