"""Anthropic's dialect: errors, headers, prompts, marks and usage."""

from typing import Any

import msgspec

from farthing.sim.account import Account
from farthing.sim.admission import Ticket
from farthing.sim.catalog import Card
from farthing.sim.errors import ApiError, invalid
from farthing.sim.http import Headers
from farthing.sim.invoice import Tokens
from farthing.sim.prompt import Block, Prompt
from farthing.sim.tokens import anthropic_image_tokens, count, image_of

PER_MESSAGE = 4
TOOL_PREAMBLE = 346
"""The hidden tool-use instructions that any tool brings along."""
DOCUMENT_TOKENS = 1_500
"""A PDF page that the simulator does not read."""
_STATUS_TYPES = {400: "invalid_request_error", 404: "not_found_error", 413: "request_too_large"}


def error_payload(error: ApiError, request_id: str) -> bytes:
    """Anthropic's error object."""
    kind = _STATUS_TYPES.get(error.status, error.kind)
    body = {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}
    return msgspec.json.encode(body)


def error_headers(error: ApiError, request_id: str) -> Headers:
    """Request id, and on a 429 or 529 what the SDKs wait by."""
    headers: Headers = [(b"request-id", request_id.encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", error.retry_after.encode()))
    if error.status == 429:
        headers.append((b"anthropic-ratelimit-requests-remaining", b"0"))
    return headers


def answer_headers(account: Account, ticket: Ticket) -> Headers:
    """Headers of a good answer."""
    return [
        (b"request-id", account.next_id("req_").encode()),
        (b"anthropic-organization-id", ticket.key.encode()),
        (b"anthropic-ratelimit-requests-limit", b"4000"),
        (b"anthropic-ratelimit-requests-remaining", b"3999"),
        (b"anthropic-ratelimit-tokens-limit", b"2000000"),
        (b"anthropic-ratelimit-tokens-remaining", b"1999000"),
    ]


class _Builder:
    def __init__(self, card: Card) -> None:
        self._card = card
        self.blocks: list[Block] = []
        self.images = 0
        self.frame = 0
        """Overhead tokens that the next block carries."""
        self.role = ""
        """Goes before the next block's text, because a cache compares it too."""

    def add(self, text: str, tokens: int, mark: Any, where: str, *, pseudo: bool = False) -> None:
        self.blocks.append(Block(f"{self.role}{text}", tokens + self.frame, _ttl(mark, where), pseudo))
        self.frame, self.role = 0, ""

    def text(self, text: str, mark: Any, where: str) -> None:
        self.add(text, self._card.tokens(count(text)), mark, where)

    def content(self, content: Any, where: str) -> None:
        if isinstance(content, str):
            self.text(content, None, where)
            return
        if not isinstance(content, list):
            raise invalid(f"{where}.content: Input should be a valid list")
        for index, block in enumerate(content):
            if not isinstance(block, dict):
                raise invalid(f"{where}.content.{index}: Input should be an object")
            self._block(block, f"{where}.content.{index}")

    def _block(self, block: dict[str, Any], where: str) -> None:
        kind, mark = block.get("type"), block.get("cache_control")
        if kind == "text":
            self.text(str(block.get("text", "")), mark, where)
        elif kind == "image":
            source = block.get("source") or {}
            size, digest = image_of(str(source.get("data") or source.get("url") or source.get("file_id") or ""))
            self.add(f"image/{digest}", anthropic_image_tokens(size), mark, where, pseudo=True)
            self.images += 1
        elif kind == "tool_use":
            given = msgspec.json.encode(block.get("input") or {}).decode()
            self.text(f"{block.get('name', '')} {given}", mark, where)
        elif kind == "tool_result":
            self.frame += PER_MESSAGE
            before = len(self.blocks)
            self.content(block.get("content") or "", where)
            ttl = _ttl(mark, where)
            if ttl and len(self.blocks) > before:
                self.blocks[-1] = msgspec.structs.replace(self.blocks[-1], ttl=ttl)
        elif kind in ("thinking", "redacted_thinking"):
            self.text(str(block.get("thinking") or block.get("data") or ""), None, where)
        elif kind == "document":
            source = block.get("source") or {}
            if source.get("type") == "text":
                self.text(str(source.get("data", "")), mark, where)
            else:
                digest = image_of(str(source.get("data") or source.get("url") or ""))[1]
                self.add(f"document/{digest}", DOCUMENT_TOKENS, mark, where, pseudo=True)
        else:
            raise invalid(f"{where}: Input tag '{kind}' found using 'type' does not match any of the expected tags")


def _ttl(mark: Any, where: str) -> str:
    if mark is None:
        return ""
    if not isinstance(mark, dict) or mark.get("type") != "ephemeral":
        raise invalid(f"{where}.cache_control: only {{'type': 'ephemeral'}} is known")
    ttl = mark.get("ttl", "5m")
    if ttl not in ("5m", "1h"):
        raise invalid(f"{where}.cache_control.ttl: Input should be '5m' or '1h'")
    return str(ttl)


def messages_prompt(body: dict[str, Any], card: Card) -> Prompt:
    """The prompt of a Messages call in cache order: tools, system, messages. Raises a 400 that names the place."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("messages: at least one message is required")
    builder = _Builder(card)
    for index, tool in enumerate(body.get("tools") or ()):
        builder.frame += TOOL_PREAMBLE if index == 0 else 0
        plain = {name: value for name, value in tool.items() if name != "cache_control"}
        builder.text(msgspec.json.encode(plain).decode(), tool.get("cache_control"), f"tools.{index}")
    system = body.get("system")
    if system:
        builder.content(system, "system")
    ask, after_tool = "", False
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("user", "assistant", "system"):
            raise invalid(f"messages.{index}.role: Input should be 'user' or 'assistant'")
        builder.frame, builder.role = builder.frame + PER_MESSAGE, f"{role}\0"
        content = message.get("content")
        builder.content(content, f"messages.{index}")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        after_tool = any(part.get("type") == "tool_result" for part in parts)
        if role == "user":
            ask = "\n".join(str(part.get("text") or "") for part in parts)
    blocks = builder.blocks
    ttl = _ttl(body.get("cache_control"), "cache_control")
    if ttl and not blocks[-1].ttl:
        blocks[-1] = msgspec.structs.replace(blocks[-1], ttl=ttl)
    return Prompt(tuple(blocks), builder.images, ask, after_tool)


def cached_prompt(account: Account, ticket: Ticket, prompt: Prompt) -> Tokens:
    """The prompt's token classes after the marks met the cache."""
    use = account.anthropic_cache.use(f"{ticket.key}/{ticket.card.id}", prompt, ticket.card.cache_min, ticket.at)
    return Tokens(
        input=prompt.tokens - use.read - use.write_5m - use.write_1h,
        cache_read=use.read,
        cache_write_5m=use.write_5m,
        cache_write_1h=use.write_1h,
    )


def geo_of(ticket: Ticket) -> str:
    """Where inference runs: ``us`` or ``global`` for models with regional prices, empty for the others."""
    wanted = ticket.body.get("inference_geo")
    if wanted not in (None, "us", "global"):
        raise invalid("inference_geo: Input should be 'us' or 'global'")
    if ticket.card.geo_us_bp == 10_000:
        if wanted == "us":
            raise invalid(f"inference_geo: {ticket.requested} does not support inference_geo")
        return ""
    return str(wanted or "global")


def usage_of(tokens: Tokens, tier: str, geo: str) -> dict[str, Any]:
    """``usage`` of a message: input excludes what the cache read or wrote."""
    usage: dict[str, Any] = {
        "input_tokens": tokens.input,
        "cache_creation_input_tokens": tokens.cache_write_5m + tokens.cache_write_1h,
        "cache_read_input_tokens": tokens.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_write_5m,
            "ephemeral_1h_input_tokens": tokens.cache_write_1h,
        },
        "output_tokens": tokens.generated,
        "service_tier": "standard" if tier == "default" else tier,
    }
    if geo:
        usage["inference_geo"] = geo
    if tokens.reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": tokens.reasoning}
    return usage
