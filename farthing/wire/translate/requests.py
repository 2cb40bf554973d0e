"""A request of one format as a request of another."""

from collections.abc import Callable
from typing import Final

import msgspec

from farthing.wire.canonical import Conversation, Format
from farthing.wire.translate import (
    chat_request,
    converse_request,
    gemini_request,
    messages_request,
    messages_write,
    responses_request,
)
from farthing.wire.translate.answers import as_obj
from farthing.wire.translate.fields import Fields, Losses, dumps, parse

READERS: Final[dict[Format, Callable[[Fields, Losses], Conversation]]] = {
    "chat": chat_request.read,
    "responses": responses_request.read,
    "messages": messages_request.read,
}
WRITERS: Final[dict[Format, Callable[[Conversation, Losses], Fields]]] = {
    "chat": chat_request.write,
    "responses": responses_request.write,
    "messages": messages_write.write,
    "gemini": gemini_request.write,
    "converse": converse_request.write,
}
_SAID: Final[dict[Format, dict[str, str]]] = {
    "chat": {
        "effort": "reasoning_effort",
        "max_tokens": "max_completion_tokens",
        "image.detail": "messages.content.image_url.detail",
        "response_format.name": "response_format.json_schema.name",
        "response_format.strict": "response_format.json_schema.strict",
    },
    "responses": {
        "effort": "reasoning.effort",
        "max_tokens": "max_output_tokens",
        "image.detail": "input.content.detail",
        "response_format": "text.format",
        "response_format.name": "text.format.name",
        "response_format.strict": "text.format.strict",
    },
    "messages": {
        "effort": "output_config.effort",
        "thinking_budget": "thinking",
        "user": "metadata.user_id",
        "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
        "response_format.name": "output_config.format",
        "messages.tool_result.is_error": "messages.content.is_error",
        "messages.tool_result.image": "messages.content.content.image",
    },
}
"""The canonical names of fields as each dialect's callers know them."""


class Translated(msgspec.Struct, frozen=True, kw_only=True):
    """A request's body in another format, and what it could not carry, in the words of the caller's dialect."""

    body: bytes
    losses: tuple[str, ...]
    output_cap: int | None = None
    """The cap on output tokens that the body states; None: the model's own."""


def translate_request(
    body: bytes,
    *,
    source: Format,
    target: Format,
    model: str,
    include_usage: bool = True,
    cap_name: str = "max_completion_tokens",
) -> Translated:
    """The request for ``model`` in another format.

    ``include_usage`` and ``cap_name`` are for chat completions: whether the server understands ``stream_options``,
    and by which name it knows the cap on output (all but OpenAI's newer models know ``max_tokens``).

    Raises :class:`Untranslatable` for a field that cannot be carried and must not be dropped, and
    :class:`BadRequest` for one that is wrong in itself.
    """
    losses = Losses()
    conversation = msgspec.structs.replace(READERS[source](parse(body), losses), model=model)
    if conversation.messages and conversation.messages[-1].role == "assistant":
        losses.add("messages.prefill")
    if target == "chat":
        written = chat_request.write(conversation, losses, include_usage=include_usage)
        if "max_completion_tokens" in written:
            written[cap_name] = written.pop("max_completion_tokens")
    else:
        written = WRITERS[target](conversation, losses)
    names = dict.fromkeys(_SAID[source].get(name, name) for name in losses.names)
    return Translated(body=dumps(written), losses=tuple(names), output_cap=_cap_in(target, written))


_CAPS: Final[dict[Format, tuple[str, str]]] = {
    "chat": ("", "max_completion_tokens"),
    "responses": ("", "max_output_tokens"),
    "messages": ("", "max_tokens"),
    "gemini": ("generationConfig", "maxOutputTokens"),
    "converse": ("inferenceConfig", "maxTokens"),
}


def _cap_in(target: Format, written: Fields) -> int | None:
    section, name = _CAPS[target]
    place = as_obj(written.get(section)) if section else written
    cap = place.get(name, place.get("max_tokens"))
    return cap if isinstance(cap, int) else None
