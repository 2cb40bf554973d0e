"""Which store the settings mean, for gateways and for the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from farthing.adapters.cache_layers import LayeredCache
from farthing.adapters.cache_memory import MemoryCache
from farthing.adapters.cache_sqlite import SqliteCache
from farthing.config.settings import CacheStoreSettings
from farthing.core.errors import ConfigError
from farthing.ports.cache import ExactCache, SharedCache
from farthing.ports.clock import Clock

CACHE_FILE: Final = "cache.db"


def open_cache(
    settings: CacheStoreSettings, home: Path, *, env: Mapping[str, str], clock: Clock, workers: int
) -> tuple[ExactCache, bool]:
    """(the store of a gateway, not started; whether other processes may share it). Raises :class:`ConfigError`."""
    memory = MemoryCache(entries_max=settings.memory_entries_max, bytes_max=settings.memory_bytes_max)
    if settings.kind == "memory":
        return memory, False
    shared = workers > 1 or settings.kind == "valkey"
    return LayeredCache(memory, open_shared(settings, home, env=env, claims=shared), clock), shared


def open_shared(
    settings: CacheStoreSettings, home: Path, *, env: Mapping[str, str], claims: bool = True
) -> SharedCache:
    """The store that processes share. Raises :class:`ConfigError` where there is none."""
    if settings.kind == "sqlite":
        return SqliteCache(
            home / CACHE_FILE, entries_max=settings.entries_max, bytes_max=settings.bytes_max, claims=claims
        )
    if settings.kind == "memory":
        raise ConfigError(
            ['cache_store.kind: "memory" is the gateway\'s own and cannot be looked into; use "sqlite" or "valkey"']
        )
    url = env.get(settings.url_env, "").strip()
    if not url:
        raise ConfigError([f"cache_store.url_env: the environment variable {settings.url_env} is not set or empty"])
    from farthing.adapters.cache_valkey import ValkeyCache  # an extra: not needed where no cache is shared

    return ValkeyCache(url, name=settings.name, entries_max=settings.entries_max, bytes_max=settings.bytes_max)
