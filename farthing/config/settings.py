"""What an installation is told: plain records, already checked. Secrets are named here, never held."""

from typing import Literal

import msgspec

from farthing.core.policy import Policy

ProviderKind = Literal["openai", "anthropic", "azure"]


class ProviderSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One upstream, ``[[providers]]``."""

    name: str
    base_url: str
    """Up to and including the version: ``https://api.openai.com/v1``."""
    kind: ProviderKind = "openai"
    """Which codec speaks to it; any OpenAI-compatible server is ``openai``."""
    api_key_env: str = ""
    """Environment variable that holds the provider's key."""
    api_key_file: str = ""
    """Or a file that holds it (for mounted secrets)."""
    models: tuple[str, ...] = ()
    """Model name patterns this provider serves (``gpt-*``); empty: whatever no other provider claims."""
    price_as: str = ""
    """Provider id in the price book; empty: ``name``."""
    price_models: tuple[tuple[str, str], ...] = ()
    """(name sent upstream, name in the price book), for deployments and private names."""
    headers: tuple[tuple[str, str], ...] = ()
    """Extra headers on every upstream request."""
    region: str = ""
    api_version: str = ""
    """Azure's ``api-version``."""
    include_usage: bool = True
    """The server understands ``stream_options.include_usage``."""
    http: Literal["1.1", "2"] = "1.1"
    proxy: str = ""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[server]``."""

    host: str = "127.0.0.1"
    port: int = 8484
    workers: int = 1
    durability: Literal["strict", "relaxed"] = "strict"
    """``strict``: an answer's last byte waits until its entry is on disk. ``relaxed``: at most 100 ms later."""
    shutdown_timeout_ms: int = 30_000
    allow_open: bool = False
    """Serve non-loopback addresses although no key exists (anyone who reaches the port can spend)."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole installation."""

    home: str
    """FARTHING_HOME: the folder that holds everything this installation writes."""
    server: ServerSettings = ServerSettings()
    providers: tuple[ProviderSettings, ...] = ()
    policy: Policy = Policy()
    source: str = ""
    """The file the settings came from; empty: defaults."""
