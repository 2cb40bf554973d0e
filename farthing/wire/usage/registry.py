"""Which reader understands which provider's answers."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from farthing.wire.usage.anthropic import MessagesReader
from farthing.wire.usage.batches import BatchReader
from farthing.wire.usage.bedrock import ConverseReader
from farthing.wire.usage.bedrock_invoke import InvokeReader
from farthing.wire.usage.cohere import CohereReader
from farthing.wire.usage.google import GeminiReader
from farthing.wire.usage.google_chat import GoogleChatReader
from farthing.wire.usage.mistral import MistralChatReader, OcrReader
from farthing.wire.usage.openai import ChatReader
from farthing.wire.usage.openai_media import ImagesReader, TranscriptionReader
from farthing.wire.usage.openai_realtime import RealtimeReader
from farthing.wire.usage.openai_responses import ResponsesReader
from farthing.wire.usage.openrouter import OpenRouterReader
from farthing.wire.usage.perplexity import AgentReader, SonarReader
from farthing.wire.usage.stream import Reader
from farthing.wire.usage.xai import XaiChatReader, XaiResponsesReader

_CHAT: Final = ChatReader("openai.chat")
_COMPLETIONS: Final = ChatReader("openai.completions")
_EMBEDDINGS: Final = ChatReader("openai.embeddings", output_expected=False)
_RESPONSES: Final = ResponsesReader("openai.responses")
_MESSAGES: Final = MessagesReader("anthropic.messages")

_ALL: Final[tuple[Reader, ...]] = (
    _CHAT,
    _COMPLETIONS,
    _EMBEDDINGS,
    _RESPONSES,
    RealtimeReader("openai.realtime"),
    ImagesReader("openai.images"),
    TranscriptionReader("openai.transcription"),
    BatchReader(
        "openai.batch",
        readers={"response": _RESPONSES, "list": _EMBEDDINGS, "text_completion": _COMPLETIONS},
        default=_CHAT,
    ),
    _MESSAGES,
    BatchReader("anthropic.batch", readers={}, default=_MESSAGES),
    GeminiReader("google.gemini"),
    GoogleChatReader("google.chat"),
    ConverseReader("aws.converse"),
    InvokeReader("aws.invoke"),
    CohereReader("cohere.chat"),
    MistralChatReader("mistral.chat"),
    MistralChatReader("mistral.embeddings", output_expected=False),
    OcrReader("mistral.ocr"),
    XaiChatReader("xai.chat"),
    XaiResponsesReader("xai.responses"),
    SonarReader("perplexity.chat"),
    AgentReader("perplexity.responses"),
    OpenRouterReader("openrouter.chat"),
)
_READERS: Final[Mapping[str, Reader]] = MappingProxyType({one.flavour: one for one in _ALL})

FLAVOURS: Final[tuple[str, ...]] = tuple(_READERS)
"""Every answer format that can be metered, ``<family>.<format>``."""

_FORMATS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "default": "openai.chat",
        "chat": "openai.chat",
        "completions": "openai.completions",
        "embeddings": "openai.embeddings",
        "responses": "openai.responses",
        "realtime": "openai.realtime",
        "images": "openai.images",
        "transcription": "openai.transcription",
        "batch": "openai.batch",
        "anthropic": "anthropic.messages",
        "messages": "anthropic.messages",
    }
)
"""What a format means on any provider that has no reader of its own for it. Azure, DeepSeek, Groq, Together, vLLM and
every other server that speaks OpenAI's formats is read by OpenAI's readers, which know their variations."""

_OWN: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {
        ("anthropic", "default"): "anthropic.messages",
        ("anthropic", "batch"): "anthropic.batch",
        ("google", "default"): "google.gemini",
        ("google", "chat"): "google.chat",
        ("google", "embeddings"): "google.gemini",
        ("aws", "default"): "aws.converse",
        ("aws", "converse"): "aws.converse",
        ("aws", "invoke"): "aws.invoke",
        ("cohere", "default"): "cohere.chat",
        ("cohere", "chat"): "cohere.chat",
        ("cohere", "tokens"): "cohere.chat",
        ("cohere", "embeddings"): "cohere.chat",
        ("cohere", "rerank"): "cohere.chat",
        ("mistral", "default"): "mistral.chat",
        ("mistral", "chat"): "mistral.chat",
        ("mistral", "embeddings"): "mistral.embeddings",
        ("mistral", "ocr"): "mistral.ocr",
        ("mistral", "ocr_annotated"): "mistral.ocr",
        ("x-ai", "default"): "xai.chat",
        ("x-ai", "chat"): "xai.chat",
        ("x-ai", "responses"): "xai.responses",
        ("perplexity", "default"): "perplexity.chat",
        ("perplexity", "chat"): "perplexity.chat",
        ("perplexity", "responses"): "perplexity.responses",
        ("openrouter", "default"): "openrouter.chat",
        ("openrouter", "chat"): "openrouter.chat",
        ("openrouter", "completions"): "openrouter.chat",
    }
)

_OTHER_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"xai": "x-ai", "bedrock": "aws", "vertex": "google", "gemini": "google"}
)


def reader(flavour: str) -> Reader:
    """The reader of one flavour of ``FLAVOURS``. Raises ``KeyError`` with the known flavours."""
    found = _READERS.get(flavour)
    if found is None:
        raise KeyError(f"No usage reader is called {flavour!r}; there are {', '.join(FLAVOURS)}.")
    return found


def reader_for(provider: str, api_flavor: str) -> Reader:
    """The reader for what ``provider`` (an id of the price book) answers on one of its APIs.

    Unknown providers are read by the format alone. Raises ``KeyError`` for an unknown format.
    """
    name = _OTHER_NAMES.get(provider, provider)
    form = api_flavor or "default"
    found = _OWN.get((name, form)) or _FORMATS.get(form)
    if found is None:
        raise KeyError(f"No usage reader for {provider}/{api_flavor}; known formats: {', '.join(_FORMATS)}.")
    return reader(found)
