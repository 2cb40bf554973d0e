"""The grammar of ``farthing.toml``: every section, every setting, how its value is read and where it goes.

Declared as data so that the parser, the "did you mean" hints and the documentation test share one list.
"""

from types import MappingProxyType
from typing import Final, NamedTuple, get_args

from farthing.config import allocations, budgets, caches, levers, people, routes, values
from farthing.config.settings import ProviderKind
from farthing.config.values import Reader, Wrong, did_you_mean, shown
from farthing.core.budget_check import is_budget_dimension
from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.policy import ErrorClass, Period, Weekday
from farthing.core.policy_cache import CACHED_ENDPOINTS, IGNORABLE
from farthing.core.policy_routes import Rung
from farthing.core.types import LimitUnit

BUDGET_DIMENSIONS: Final = (*SCOPE_DIMENSIONS, "provider", "model")
"""What is known of a request before it is sent; budgets can match and split by these, and by ``tag:<name>``."""


class Setting(NamedTuple):
    """One key of a section."""

    read: Reader
    into: str = ""
    """The record's field when it is not the key itself."""


def _dimension(value: object) -> object:
    name = str(values.text(value))
    if is_budget_dimension(name):
        return name
    allowed = ", ".join(BUDGET_DIMENSIONS)
    raise Wrong(
        f"is {shown(value)}, not a dimension of a request; allowed: {allowed}, "
        f"tag:<name>{did_you_mean(name, BUDGET_DIMENSIONS)}"
    )


_NAME: Final = values.matching(
    r"[^\W_][\w .,:/()+-]{0,63}",
    "a name that begins with a letter or digit, of letters, digits, spaces and .,:/()_+- (at most 64)",
)
_PROVIDER_NAME: Final = values.matching(
    r"[a-z0-9][a-z0-9_.-]{0,63}", "a name of small letters, digits, '.', '_' and '-'"
)
_ENV_NAME: Final = values.matching(
    r"[A-Za-z_][A-Za-z0-9_]*", 'the name of an environment variable, such as "OPENAI_API_KEY",'
)
_HEADER: Final = values.matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", "a header name")
_HEADER_VALUE: Final = values.matching(r"[\t\x20-\x7e]+", "a header value of printable ASCII characters")
_HOST: Final = values.matching(r"[A-Za-z0-9._:-]+", "an IP address or host name")
_ERRORS: Final = values.listed(values.choice(*get_args(ErrorClass)))

SERVER: Final = MappingProxyType(
    {
        "host": Setting(_HOST),
        "port": Setting(values.whole(1, 65_535)),
        "workers": Setting(values.whole(1, 64)),
        "durability": Setting(values.choice("strict", "relaxed")),
        "shutdown_timeout": Setting(values.duration_ms, "shutdown_timeout_ms"),
        "allow_open": Setting(values.flag),
    }
)

PROVIDER: Final = MappingProxyType(
    {
        "name": Setting(_PROVIDER_NAME),
        "kind": Setting(values.choice(*get_args(ProviderKind))),
        "base_url": Setting(values.url),
        "api_key_env": Setting(_ENV_NAME),
        "api_key_file": Setting(values.text),
        "models": Setting(values.listed(values.text)),
        "price_as": Setting(_PROVIDER_NAME),
        "price_models": Setting(values.pairs(values.text, values.text)),
        "headers": Setting(values.pairs(_HEADER, _HEADER_VALUE)),
        "region": Setting(values.text),
        "api_version": Setting(values.text),
        "aws_credentials_file": Setting(values.text),
        "aws_profile": Setting(values.text),
        "include_usage": Setting(values.flag),
        "http": Setting(values.choice("1.1", "2")),
        "proxy": Setting(values.url),
    }
)

LIMIT_UNITS: Final[tuple[str, ...]] = get_args(LimitUnit)

BUDGET: Final = MappingProxyType(
    {
        "name": Setting(_NAME),
        "per": Setting(values.choice(*get_args(Period))),
        "usd": Setting(values.usd),
        **{unit: Setting(values.whole(0)) for unit in LIMIT_UNITS if unit != "usd"},
        "each": Setting(values.listed(_dimension)),
        "match": Setting(values.pairs(_dimension, values.text)),
        "timezone": Setting(values.timezone),
        "day_hour": Setting(values.whole(0, 23)),
        "week_starts": Setting(values.choice(*get_args(Weekday))),
        "month_day": Setting(values.whole(1, 31)),
        "year_month": Setting(values.whole(1, 12)),
        "length": Setting(values.duration_ms, "length_ms"),
        "credits": Setting(budgets.tables(budgets.grant)),
        "raises": Setting(budgets.tables(budgets.grant)),
        "thresholds": Setting(budgets.tables(budgets.threshold)),
        "hard": Setting(values.flag),
        "mode": Setting(values.choice("enforce", "shadow")),
    }
)

LIMITS: Final = MappingProxyType(
    {
        "body_bytes_max": Setting(values.whole(1, 2**31)),
        "output_tokens_max": Setting(values.whole(1)),
        "output_tokens_assumed": Setting(values.whole(1)),
        "timeout": Setting(values.duration_ms, "timeout_ms"),
        "first_byte_timeout": Setting(values.duration_ms, "first_byte_timeout_ms"),
        "idle_timeout": Setting(values.duration_ms, "idle_timeout_ms"),
        "connect_timeout": Setting(values.duration_ms, "connect_timeout_ms"),
        "unknown_headers": Setting(values.choice("warn", "refuse")),
    }
)

RETRIES: Final = MappingProxyType(
    {
        "attempts_max": Setting(values.whole(1, 20)),
        "backoff": Setting(values.duration_ms, "backoff_ms"),
        "backoff_max": Setting(values.duration_ms, "backoff_ms_max"),
        "on": Setting(_ERRORS),
    }
)

FALLBACK: Final = MappingProxyType(
    {
        "model": Setting(values.text),
        "to": Setting(values.listed(values.text, low=1)),
        "on": Setting(_ERRORS),
    }
)

UNPRICED: Final = MappingProxyType(
    {
        "action": Setting(values.choice("refuse", "ceiling", "allow")),
        "input_usd_per_million": Setting(values.rate),
        "output_usd_per_million": Setting(values.rate),
    }
)

EXCHANGE_LOG: Final = MappingProxyType(
    {
        "enabled": Setting(values.flag),
        "text": Setting(values.choice("none", "redacted", "full")),
        "retention_days": Setting(values.whole(0, 36_500)),
        "redact": Setting(values.listed(values.regex)),
    }
)

ANALYTICS: Final = MappingProxyType(
    {
        "reports": Setting(values.choice("ledger", "copy", "parquet", "clickhouse")),
        "parquet": Setting(values.text),
        "rollups": Setting(values.flag),
        "clickhouse_url": Setting(values.url),
        "clickhouse_database": Setting(values.matching(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a database")),
        "clickhouse_user": Setting(values.text),
        "clickhouse_password_env": Setting(_ENV_NAME),
        "otlp_url": Setting(values.url),
        "otlp_headers_env": Setting(_ENV_NAME),
    }
)

ALERTS: Final = MappingProxyType(
    {
        "thresholds": Setting(values.listed(values.whole(1, 1_000))),
        "forecast": Setting(values.flag),
        "incidents": Setting(values.flag),
        "quiet_hours": Setting(values.hours),
        "quiet_timezone": Setting(values.timezone),
        "quiet_passes": Setting(values.choice("critical", "warning", "nothing")),
        "velocity_usd_per_minute": Setting(values.usd, "velocity"),
        "velocity_factor": Setting(values.whole(2, 10_000)),
        "velocity_floor_usd_per_minute": Setting(values.usd, "velocity_floor"),
        "velocity_action": Setting(values.choice("notify", "block")),
        "velocity_cooldown": Setting(values.duration_ms, "velocity_cooldown_ms"),
        "give_up_after": Setting(values.duration_ms, "give_up_after_ms"),
        "retention_days": Setting(values.whole(1, 36_500)),
    }
)

ALERT_SINK: Final = MappingProxyType(
    {
        "name": Setting(_NAME),
        "kind": Setting(values.choice("apprise", "webhook", "log")),
        "url_env": Setting(_ENV_NAME),
        "secret_env": Setting(_ENV_NAME),
        "severity": Setting(values.choice("info", "warning", "critical")),
        "budgets": Setting(values.listed(values.text)),
    }
)

CACHE_STORE: Final = MappingProxyType(
    {
        "kind": Setting(values.choice("memory", "sqlite", "valkey")),
        "url_env": Setting(_ENV_NAME),
        "name": Setting(_PROVIDER_NAME),
        "questions": Setting(values.choice("sqlite", "postgres")),
        "entries_max": Setting(values.whole(1)),
        "bytes_max": Setting(values.whole(4096)),
        "memory_entries_max": Setting(values.whole(1)),
        "memory_bytes_max": Setting(values.whole(4096)),
    }
)

CACHE: Final = MappingProxyType(
    {
        "name": Setting(_NAME),
        "models": Setting(values.listed(values.text)),
        "endpoints": Setting(values.listed(values.choice(*CACHED_ENDPOINTS))),
        "match": Setting(values.pairs(caches.dimension, values.text)),
        "use": Setting(values.flag),
        "exact": Setting(values.flag),
        "ttl": Setting(values.duration_ms, "ttl_ms"),
        "partition": Setting(values.listed(caches.dimension)),
        "ignore": Setting(values.listed(values.choice(*IGNORABLE))),
        "temperature_max": Setting(caches.number(0, 2)),
        "seeded": Setting(values.flag),
        "choices_max": Setting(values.whole(1, 128)),
        "tools": Setting(values.flag),
        "external": Setting(values.flag),
        "bytes_max": Setting(values.whole(1, 2**31)),
        "tags": Setting(values.listed(values.text)),
        "single_flight": Setting(values.flag),
        "semantic": Setting(caches.semantic),
    }
)

EMBEDDER: Final = MappingProxyType(
    {
        "kind": Setting(values.choice("minilm", "onnx", "endpoint")),
        "folder": Setting(values.text),
        "provider": Setting(values.text),
        "model": Setting(values.text),
        "dimensions": Setting(values.whole(1, 65_536)),
    }
)

ROUTE: Final = MappingProxyType(
    {
        "name": Setting(_NAME),
        "models": Setting(values.listed(values.text, low=1)),
        "match": Setting(values.pairs(routes.what, values.text)),
        "tiers": Setting(routes.tiers),
        "by": Setting(values.listed(values.choice(*get_args(Rung)))),
        "tags": Setting(values.pairs(values.text, values.text)),
        "tag_header": Setting(_HEADER),
        "otherwise": Setting(values.text),
        "table": Setting(values.text),
        "classifier": Setting(values.text),
        "length_tokens": Setting(values.whole(1)),
        "quality_min": Setting(caches.number(0, 1)),
        "latency_max": Setting(values.duration_ms, "latency_ms_max"),
        "cost_usd_max": Setting(values.usd, "cost_max"),
        "providers": Setting(values.listed(_PROVIDER_NAME)),
        "sticky": Setting(values.choice("conversation", "request")),
        "turns_expected": Setting(values.whole(1, 10_000)),
        "cascade": Setting(routes.cascade),
        "rollout": Setting(routes.rollout),
    }
)

LEVER: Final = MappingProxyType(
    {
        "kind": Setting(values.choice(*levers.KINDS)),
        "name": Setting(_NAME),
        "models": Setting(values.listed(values.text)),
        "match": Setting(values.pairs(caches.dimension, values.text)),
        "ttl": Setting(values.choice("5m", "1h")),
        "reuse": Setting(values.choice("seen", "always")),
        "above_tokens": Setting(values.whole(1)),
        "to_tokens": Setting(values.whole(0)),
        "keep_turns": Setting(values.whole(1)),
        "turns_expected": Setting(values.whole(0)),
        "bytes_min": Setting(values.whole(0)),
        "users": Setting(values.flag),
        "tools": Setting(values.listed(values.text, low=1)),
        "calls": Setting(values.whole(1)),
        "model": Setting(values.text),
        "evaluated": Setting(values.text),
        "tier": Setting(values.choice("flex")),
        "tokens": Setting(values.whole(1)),
    }
)

STORE: Final = MappingProxyType(
    {
        "kind": Setting(values.choice("sqlite", "postgres", "valkey")),
        "postgres_url_env": Setting(_ENV_NAME),
        "valkey_url_env": Setting(_ENV_NAME),
        "namespace": Setting(values.matching(r"[a-z][a-z0-9_]{0,31}", "a name of small letters, digits and '_'")),
        "allowance_usd": Setting(values.usd, "allowance"),
    }
)

DASHBOARD: Final = MappingProxyType(
    {
        "users": Setting(people.users),
        "session": Setting(values.duration_ms, "session_ms"),
        "plain_http": Setting(values.flag),
    }
)

BATCHES: Final = MappingProxyType(
    {
        "poll": Setting(values.duration_ms, "poll_ms"),
        "file_bytes_max": Setting(values.whole(1, 512 * 1024 * 1024)),
        "queue": Setting(values.flag),
        "queue_size": Setting(values.whole(1, 50_000)),
        "queue_age": Setting(values.duration_ms, "queue_age_ms"),
    }
)

ALLOCATION: Final = MappingProxyType(
    {
        "version": Setting(values.text),
        "rules": Setting(allocations.rules),
        "pools": Setting(allocations.pools),
    }
)

TOP: Final = MappingProxyType(
    {
        "on_disconnect": Setting(values.choice("drain", "cancel")),
        "on_unknown_outcome": Setting(values.choice("ceiling", "estimate")),
        "on_store_failure": Setting(values.choice("refuse", "allow")),
        "reservation_ttl": Setting(values.duration_ms, "reservation_ttl_ms"),
    }
)
"""Settings that stand above the first section."""

SECTIONS: Final = MappingProxyType(
    {
        "server": SERVER,
        "store": STORE,
        "limits": LIMITS,
        "retries": RETRIES,
        "unpriced": UNPRICED,
        "exchange_log": EXCHANGE_LOG,
        "alerts": ALERTS,
        "analytics": ANALYTICS,
        "cache_store": CACHE_STORE,
        "embedder": EMBEDDER,
        "dashboard": DASHBOARD,
        "batches": BATCHES,
        "allocation": ALLOCATION,
    }
)
"""``[section]``: at most once each."""

LISTS: Final = MappingProxyType(
    {
        "providers": PROVIDER,
        "budgets": BUDGET,
        "fallbacks": FALLBACK,
        "alert_sinks": ALERT_SINK,
        "cache": CACHE,
        "routes": ROUTE,
        "levers": LEVER,
    }
)
"""``[[section]]``: any number of times."""

REQUIRED: Final = MappingProxyType(
    {
        "providers": ("name",),
        "budgets": ("name", "per"),
        "fallbacks": ("model", "to"),
        "alert_sinks": ("name", "kind"),
        "cache": ("name",),
        "routes": ("name", "models", "tiers"),
        "levers": ("kind",),
    }
)

ENVIRONMENT: Final = MappingProxyType(
    {
        "FARTHING_HOME": "the folder that holds everything this installation writes",
        "FARTHING_CONFIG": "the configuration file",
        "FARTHING_HOST": "overrides server.host",
        "FARTHING_PORT": "overrides server.port",
    }
)
