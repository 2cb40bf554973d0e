"""Whose usage object this is, by the names in it: for those who have nothing but the object.

A model is sold through more than one API: Claude on Bedrock answers in Converse's names or in Anthropic's own, Gemini
in Google's or, through the endpoint that speaks OpenAI's language, in OpenAI's. The names decide, not the provider:
read under the wrong names, tokens would go unseen.
"""

from collections.abc import Mapping
from typing import Any, Final

from farthing.wire.usage.registry import reader, reader_for
from farthing.wire.usage.stream import Reader

_GEMINI: Final = ("promptTokenCount", "candidatesTokenCount", "responseTokenCount", "totalTokenCount")
_BEDROCK: Final = ("inputTokens", "outputTokens", "inputTokenCount", "outputTokenCount")
_CHAT: Final = ("prompt_tokens", "completion_tokens")
_MESSAGES: Final = (
    "cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation", "server_tool_use", "iterations",
)  # fmt: skip
_RESPONSES: Final = ("input_tokens_details", "total_tokens")
_SPEAK_MESSAGES: Final = ("anthropic", "aws", "google", "bedrock", "vertex", "gemini")
"""Providers whose bare ``input_tokens`` and ``output_tokens`` are Anthropic's."""


def reader_of(provider: str, usage: Mapping[str, Any]) -> Reader:
    """The reader of a usage object that came from a provider; its own default one where the names say nothing."""
    if _says(usage, _GEMINI):
        return reader("google.gemini")
    if _says(usage, _BEDROCK):
        return reader("aws.converse")
    if _says(usage, ("billed_units",)):
        return reader("cohere.chat")
    if _says(usage, ("input_token_details",)):
        return reader("openai.realtime")
    if _says(usage, _CHAT):
        return reader("openai.chat") if provider == "cohere" else reader_for(provider, "chat")
    if _says(usage, ("seconds",)):
        return reader("openai.transcription")
    if _says(usage, ("input_tokens", "output_tokens")):
        foreign = not _says(usage, _RESPONSES) and provider in _SPEAK_MESSAGES
        return (
            reader("anthropic.messages") if foreign or _says(usage, _MESSAGES) else reader_for(provider, "responses")
        )
    return reader_for(provider, "default")


def _says(usage: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    return any(usage.get(name) is not None for name in names)
