"""Well-known providers, so that adding one is three lines of TOML: its name is enough to know the rest.

Every value may be overridden in the file. ``models`` empty means "whatever no other provider claims".
"""

from types import MappingProxyType
from typing import Final

import msgspec

from farthing.config.settings import ProviderSettings

_NEEDS_URL: Final = ""

_ALL: Final = (
    ProviderSettings(name="openai", base_url="https://api.openai.com/v1", api_key_env="OPENAI_API_KEY"),
    ProviderSettings(
        name="anthropic",
        kind="anthropic",
        base_url="https://api.anthropic.com/v1",
        api_key_env="ANTHROPIC_API_KEY",
        models=("claude-*",),
    ),
    ProviderSettings(
        name="groq",
        base_url="https://api.groq.com/openai/v1",
        api_key_env="GROQ_API_KEY",
        models=("llama-*", "meta-llama/*", "openai/gpt-oss-*", "qwen/*", "moonshotai/*", "groq/*"),
    ),
    ProviderSettings(
        name="deepseek",
        base_url="https://api.deepseek.com/v1",
        api_key_env="DEEPSEEK_API_KEY",
        models=("deepseek-*",),
    ),
    ProviderSettings(
        name="mistral",
        base_url="https://api.mistral.ai/v1",
        api_key_env="MISTRAL_API_KEY",
        models=(
            "mistral-*",
            "ministral-*",
            "magistral-*",
            "codestral-*",
            "devstral-*",
            "pixtral-*",
            "voxtral-*",
            "open-mistral-*",
            "open-mixtral-*",
        ),
        include_usage=False,
    ),
    ProviderSettings(
        name="xai",
        base_url="https://api.x.ai/v1",
        api_key_env="XAI_API_KEY",
        models=("grok-*",),
        price_as="x-ai",
    ),
    ProviderSettings(
        name="together",
        base_url="https://api.together.xyz/v1",
        api_key_env="TOGETHER_API_KEY",
        models=("meta-llama/*", "Qwen/*", "deepseek-ai/*", "mistralai/*", "moonshotai/*", "zai-org/*", "openai/*"),
    ),
    ProviderSettings(
        name="openrouter",
        base_url="https://openrouter.ai/api/v1",
        api_key_env="OPENROUTER_API_KEY",
        models=("*/*",),
    ),
    ProviderSettings(
        name="perplexity",
        base_url="https://api.perplexity.ai",
        api_key_env="PERPLEXITY_API_KEY",
        models=("sonar", "sonar-*"),
        include_usage=False,
    ),
    ProviderSettings(
        name="gemini",
        kind="gemini",
        base_url="https://generativelanguage.googleapis.com/v1beta",
        api_key_env="GEMINI_API_KEY",
        models=("gemini-*", "gemma-*"),
        price_as="google",
    ),
    ProviderSettings(
        name="bedrock",
        kind="bedrock",
        base_url=_NEEDS_URL,
        api_key_env="AWS_BEARER_TOKEN_BEDROCK",
        models=(
            "amazon.*",
            "anthropic.*",
            "cohere.*",
            "deepseek.*",
            "meta.*",
            "mistral.*",
            "openai.*",
            "qwen.*",
            "us.*",
            "eu.*",
            "apac.*",
            "global.*",
        ),
        price_as="aws",
    ),
    ProviderSettings(name="azure", kind="azure", base_url=_NEEDS_URL, api_key_env="AZURE_OPENAI_API_KEY"),
    ProviderSettings(name="vllm", base_url=_NEEDS_URL),
)

PRESETS: Final = MappingProxyType({preset.name: preset for preset in _ALL})

DEFAULT_PROVIDERS: Final = (PRESETS["openai"], PRESETS["anthropic"])
"""What runs when the file names no provider."""


_CLOUDS: Final = {"azure": "azure", "gemini": "google", "bedrock": "aws"}


def preset_values(name: str, kind: str) -> dict[str, object]:
    """Defaults of the provider called ``name``; the clouds are priced as themselves by any name."""
    preset = PRESETS.get(name)
    if preset is not None:
        return {key: value for key, value in msgspec.structs.asdict(preset).items() if value != ""}
    return {"price_as": _CLOUDS[kind]} if kind in _CLOUDS else {}
