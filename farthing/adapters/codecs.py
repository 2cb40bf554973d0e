"""A provider's codec and key, from its settings."""

from collections.abc import Callable, Mapping
from pathlib import Path

from farthing.adapters.aws_credentials import CredentialsFile, always, keys_of_env
from farthing.adapters.providers.anthropic import AnthropicCodec
from farthing.adapters.providers.azure import AzureCodec
from farthing.adapters.providers.bedrock import BedrockCodec, region_of
from farthing.adapters.providers.gemini import GeminiCodec
from farthing.adapters.providers.openai import OpenAICodec
from farthing.adapters.system import SystemClock
from farthing.config.settings import ProviderSettings
from farthing.core.errors import ConfigError
from farthing.core.signing_aws import AwsKeys
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


def aws_keys_of(provider: ProviderSettings, env: Mapping[str, str]) -> Callable[[], AwsKeys] | None:
    """What signs requests to Bedrock; None without credentials. Raises ConfigError, without what they are."""
    keys: Callable[[], AwsKeys] | None = None
    if provider.aws_credentials_file:
        keys = CredentialsFile(Path(provider.aws_credentials_file).expanduser(), provider.aws_profile)
    elif (found := keys_of_env(env)) is not None:
        keys = always(found)
    if keys is not None and not (provider.region or region_of(provider.base_url)):
        raise ConfigError(
            [f"providers '{provider.name}': region is missing; AWS signatures name it and base_url does not"]
        )
    return keys


def codec_of(provider: ProviderSettings, secret: str, env: Mapping[str, str] | None = None) -> Codec:
    """What speaks to this provider. ``env`` is where AWS credentials may be."""
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
    if provider.kind == "gemini":
        return GeminiCodec(name=provider.name, base_url=provider.base_url, secret=secret, headers=provider.headers)
    if provider.kind == "bedrock":
        return BedrockCodec(
            name=provider.name,
            base_url=provider.base_url,
            secret=secret,
            headers=provider.headers,
            keys=None if secret else aws_keys_of(provider, env or {}),
            region=provider.region,
            now_ms=SystemClock().now_ms,
        )
    return OpenAICodec(
        name=provider.name,
        base_url=provider.base_url,
        secret=secret,
        headers=provider.headers,
        price_as=provider.price_as,
    )
