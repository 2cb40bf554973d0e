"""Who served a row of another tool's export: its own word first, then whoever sells such a model."""

from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Final

from farthing.config import ProviderSettings
from farthing.config.checks import serving
from farthing.core.types import Target

_BOOK_NAMES: Final = MappingProxyType(
    {
        "azure_ai": "azure", "azure.ai.openai": "azure", "az.ai.openai": "azure", "azure.ai.inference": "azure",
        "az.ai.inference": "azure", "azure_openai": "azure", "azure_text": "azure",
        "bedrock": "aws", "bedrock_converse": "aws", "aws.bedrock": "aws", "aws_bedrock": "aws",
        "gemini": "google", "vertex_ai": "google", "vertex_ai_beta": "google", "gcp.gemini": "google",
        "gcp.vertex_ai": "google", "gcp.gen_ai": "google", "google_genai": "google", "google_vertexai": "google",
        "mistral_ai": "mistral", "mistralai": "mistral", "together_ai": "together", "togetherai": "together",
        "xai": "x-ai", "x_ai": "x-ai", "fireworks_ai": "fireworks", "cohere_chat": "cohere",
        "text-completion-openai": "openai", "openai_like": "openai",
    }
)  # fmt: skip
"""What tools call a provider → what the price book calls it."""
_MAKERS: Final = (
    "openai",
    "anthropic",
    "google",
    "mistral",
    "x-ai",
    "deepseek",
    "cohere",
    "perplexity",
    "groq",
    "aws",
)
"""Where a model is looked for when nobody says who served it."""

Sells = Callable[[str, str], bool]
"""Whether the price book lists a model at a provider."""


def target_of(provider: str, model: str, providers: Iterable[ProviderSettings], sells: Sells) -> Target:
    """The target of a row that names ``provider`` (or nobody) and ``model``, which may begin with a provider's."""
    known = tuple(providers)
    head, slash, rest = model.partition("/")
    if slash and rest and _book_name(head) == _book_name(provider or head) and (provider or _is_known(head, known)):
        provider, model = provider or head, rest
    if provider:
        return _named(provider, model, known)
    found = next(iter(serving(known, model)), None)
    if found is not None and (found.models or sells(found.price_as or found.name, model)):
        return Target(provider=found.name, price_as=found.price_as or found.name, model=model)
    seller = next((one for one in _MAKERS if sells(one, model)), None)
    if seller is not None:
        return _named(seller, model, known)
    name = found.name if found is not None else "unknown"
    return Target(provider=name, price_as=(found.price_as if found is not None else "") or name, model=model)


def _named(provider: str, model: str, known: tuple[ProviderSettings, ...]) -> Target:
    """The configured provider of that name, or else the name as the price book has it."""
    book = _book_name(provider)
    own = next((one for one in known if one.name == provider), None) or next(
        (one for one in known if _book_name(one.price_as or one.name) == book), None
    )
    if own is not None:
        return Target(provider=own.name, price_as=own.price_as or own.name, model=model)
    return Target(provider=book, price_as=book, model=model)


def _is_known(head: str, known: tuple[ProviderSettings, ...]) -> bool:
    return head in _BOOK_NAMES or head in _MAKERS or any(one.name == head for one in known)


def _book_name(name: str) -> str:
    return _BOOK_NAMES.get(name.lower(), name.lower())
