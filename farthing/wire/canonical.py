"""One form between the dialects: what a conversation asks, what an answer says, and what a stream tells.

Every dialect is read into these records and written from them, so that n dialects need n readers and n writers and
not n × n translators. The records hold meaning only: how a dialect spells it stays in ``farthing.wire.translate``.
What a dialect says and this form cannot hold is named by its reader; what this form holds and a dialect cannot say
is named by its writer. Nothing is dropped without a name.
"""

from typing import Literal

import msgspec

Format = Literal["chat", "responses", "messages", "gemini", "converse"]
"""A body format: OpenAI chat completions, OpenAI responses, Anthropic messages, Gemini, Bedrock Converse."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

StopReason = Literal["stop", "length", "tool", "stop_sequence", "refusal", "content_filter", "pause"]
"""Why an answer ended: by itself, at its cap, to call tools, at a stop sequence, because the model declined, because
a filter cut it, or to be continued by the same conversation."""


class Text(msgspec.Struct, frozen=True, kw_only=True, tag="text"):
    """Words. ``cache`` is a prompt-cache mark after this part: ``5m``, ``1h`` or none."""

    text: str
    cache: str = ""


class Image(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """A picture, by URL or as base64 ``data`` with its ``media_type``; exactly one of both."""

    url: str = ""
    media_type: str = ""
    data: str = ""
    detail: str = ""
    """OpenAI's ``low``/``high``; empty: the model's choice."""
    cache: str = ""


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag="refusal"):
    """The model's words for declining."""

    text: str


class Thinking(msgspec.Struct, frozen=True, kw_only=True, tag="thinking"):
    """Reasoning that a provider shows. Only the provider that signed it takes it back."""

    text: str = ""
    signature: str = ""
    redacted: bool = False
    """``signature`` holds reasoning that is encrypted as a whole."""
    signer: Literal["", "anthropic", "openai", "google"] = ""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, tag="tool_call"):
    """A call that the model asks for; several in one message are parallel."""

    id: str
    name: str
    arguments: str
    """A JSON object as text."""
    signature: str = ""
    """Gemini's thought signature, which goes back with the call."""
    cache: str = ""


class ToolResult(msgspec.Struct, frozen=True, kw_only=True, tag="tool_result"):
    """What a call gave."""

    call_id: str
    parts: tuple[Text | Image, ...] = ()
    is_error: bool = False
    cache: str = ""


Part = Text | Image | Refusal | Thinking | ToolCall | ToolResult


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn. ``tool`` turns hold results only; ``system`` ones stand where the caller put them."""

    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[Part, ...] = ()


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function the caller runs. ``schema`` is the JSON schema of its arguments, as bytes."""

    name: str
    description: str = ""
    schema: bytes = b'{"type":"object","properties":{}}'
    strict: bool | None = None
    cache: str = ""


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """``auto``, ``none``, ``required`` (any tool), or ``named``."""

    mode: Literal["auto", "none", "required", "named"]
    name: str = ""


class ResponseFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of the answer's text: any JSON object, or one that fits ``schema`` (JSON schema as bytes)."""

    kind: Literal["json", "schema"]
    schema: bytes = b""
    name: str = ""
    description: str = ""
    strict: bool | None = None


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a model, whatever its dialect. None and empty mean "not said"."""

    model: str
    system: tuple[Text, ...] = ()
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    response_format: ResponseFormat | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    effort: Effort | None = None
    thinking_budget: int | None = None
    """Tokens the model may think with; 0 switches thinking off."""
    adaptive_thinking: bool = False
    """The caller leaves to the model how much it thinks, and wants to see it."""
    service_tier: Literal["", "auto", "default", "flex", "priority"] = ""
    user: str = ""
    stream: bool = False
    include_usage: bool = False


class TokenCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer says it consumed, in disjoint classes but for ``reasoning``, which is part of ``output``."""

    input: int = 0
    """Neither read from nor written to the prompt cache."""
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    """The part of ``cache_write`` that lives an hour."""
    output: int = 0
    reasoning: int = 0

    @property
    def prompt(self) -> int:
        """All input."""
        return self.input + self.cache_read + self.cache_write


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    id: str = ""
    model: str = ""
    created: int = 0
    """Seconds since the epoch; 0: the provider did not say."""
    parts: tuple[Part, ...] = ()
    stop: StopReason = "stop"
    stop_sequence: str = ""
    usage: TokenCounts | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's error, without its dialect: HTTP's status, and the provider's own words for what went wrong."""

    status: int
    message: str
    kind: str = ""
    code: str = ""
    param: str = ""


# -- a stream, event by event ---------------------------------------------------------------------------------------


class Began(msgspec.Struct, frozen=True, kw_only=True):
    """First of all: whose answer it is. ``usage`` holds what is known of the prompt by now."""

    id: str = ""
    model: str = ""
    created: int = 0
    usage: TokenCounts | None = None


class TextPiece(msgspec.Struct, frozen=True, kw_only=True):
    """More text."""

    text: str


class RefusalPiece(msgspec.Struct, frozen=True, kw_only=True):
    """More of a refusal."""

    text: str


class ThinkingPiece(msgspec.Struct, frozen=True, kw_only=True):
    """More reasoning, or the signature that ends it."""

    text: str = ""
    signature: str = ""
    redacted: bool = False
    signer: Literal["", "anthropic", "openai", "google"] = ""


class CallBegan(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call begins; ``index`` counts the calls of this answer from 0."""

    index: int
    id: str
    name: str
    signature: str = ""


class CallPiece(msgspec.Struct, frozen=True, kw_only=True):
    """More of a call's arguments."""

    index: int
    arguments: str


class PartEnded(msgspec.Struct, frozen=True, kw_only=True):
    """The part being told is complete; what follows is a part of its own."""


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """The model has said all; usage may still follow."""

    stop: StopReason
    stop_sequence: str = ""


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer's token counts; a later one replaces an earlier one."""

    usage: TokenCounts


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """The provider broke the stream off and said why."""

    failure: Failure


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing follows."""


Event = (
    Began | TextPiece | RefusalPiece | ThinkingPiece | CallBegan | CallPiece | PartEnded | Stopped | Counted | Failed
    | Ended
)  # fmt: skip
