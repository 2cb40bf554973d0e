"""A provider's codec and key, from its settings."""

from collections.abc import Mapping
from pathlib import Path

from farthing.adapters.providers.anthropic import AnthropicCodec
from farthing.adapters.providers.azure import AzureCodec
from farthing.adapters.providers.bedrock import BedrockCodec
from farthing.adapters.providers.gemini import GeminiCodec
from farthing.adapters.providers.openai import OpenAICodec
from farthing.config.settings import ProviderSettings
from farthing.core.errors import ConfigError
from farthing.ports.provider import Codec


def secret_of(provider: ProviderSettings, env: Mapping[str, str]) -> str:
    """The provider's key from the environment or its file; empty when neither is set. Raises ConfigError."""
    if provider.api_key_file:
        path = Path(provider.api_key_file)
        try:
            return path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                [f"providers '{provider.name}': api_key_file cannot be read: {error.strerror}"]
            ) from None
    return env.get(provider.api_key_env, "").strip() if provider.api_key_env else ""


def codec_of(provider: ProviderSettings, secret: str) -> Codec:
    """What speaks to this provider."""
    if provider.kind == "anthropic":
        return AnthropicCodec(name=provider.name, base_url=provider.base_url, secret=secret, headers=provider.headers)
    if provider.kind == "azure":
        return AzureCodec(
            name=provider.name,
            base_url=provider.base_url,
            secret=secret,
            headers=provider.headers,
            api_version=provider.api_version or "2024-10-21",
        )
    if provider.kind in ("gemini", "bedrock"):
        codec = GeminiCodec if provider.kind == "gemini" else BedrockCodec
        return codec(name=provider.name, base_url=provider.base_url, secret=secret, headers=provider.headers)
    return OpenAICodec(
        name=provider.name,
        base_url=provider.base_url,
        secret=secret,
        headers=provider.headers,
        price_as=provider.price_as,
    )
