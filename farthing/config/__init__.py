"""Settings: what ``farthing.toml`` and the environment say, every problem reported at once; ``parse`` is pure.

Only this package knows the grammar of the file; only ``bootstrap`` and the CLI call it. Secrets are named in the
file (``api_key_env``, ``api_key_file``) and read by ``bootstrap``; they are never part of ``Settings``.
"""

from farthing.config.checks import dialect_of, notes
from farthing.config.loading import load
from farthing.config.parser import parse
from farthing.config.places import config_candidates, default_home
from farthing.config.settings import (
    AnalyticsSettings,
    CacheStoreSettings,
    EmbedderSettings,
    ProviderKind,
    ProviderSettings,
    ServerSettings,
    Settings,
)

__all__ = [
    "AnalyticsSettings",
    "CacheStoreSettings",
    "EmbedderSettings",
    "ProviderKind",
    "ProviderSettings",
    "ServerSettings",
    "Settings",
    "config_candidates",
    "default_home",
    "dialect_of",
    "load",
    "notes",
    "parse",
]
