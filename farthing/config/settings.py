"""What an installation is told: plain records, already checked. Secrets are named here, never held."""

from typing import Literal

import msgspec

from farthing.core.allocation import AllocationRules
from farthing.core.policy import Policy

ProviderKind = Literal["openai", "anthropic", "azure", "gemini", "bedrock"]


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
    aws_credentials_file: str = ""
    """For Bedrock without an API key: AWS credentials; empty: those of the environment."""
    aws_profile: str = "default"
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


class AnalyticsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[analytics]``."""

    reports: Literal["ledger", "copy", "parquet", "clickhouse"] = "ledger"
    """What reports and pages read; ``copy``: a copy of the PostgreSQL ledger in the installation's folder."""
    parquet: str = ""
    """Folder of the Parquet export; empty: ``parquet`` in the installation's folder."""
    rollups: bool = True
    """Keep sums by hour beside the SQLite ledger, and answer reports and pages from them."""
    clickhouse_url: str = ""
    """The server's HTTP interface; when set, the gateway sends it the books."""
    clickhouse_database: str = "default"
    clickhouse_user: str = ""
    clickhouse_password_env: str = ""
    """Environment variable that holds the password."""
    otlp_url: str = ""
    """An OpenTelemetry collector that takes OTLP over HTTP; when set, the gateway sends it a span a call."""
    otlp_headers_env: str = ""
    """Environment variable that holds headers for it, ``name=value,name=value``."""


class AlertSinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to people, ``[[alert_sinks]]``."""

    name: str
    kind: Literal["apprise", "webhook", "log"]
    url_env: str = ""
    """Environment variable that holds its address; addresses often hold secrets."""
    secret_env: str = ""
    """Environment variable that holds the key with which a webhook's alerts are signed."""
    severity: Literal["info", "warning", "critical"] = "info"
    """The least urgent alert that goes there."""
    budgets: tuple[str, ...] = ()
    """Patterns of budgets' names whose alerts go there; empty: all."""


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[alerts]``: what is told of budgets, when, and to whom. Amounts in nano-USD per minute."""

    thresholds: tuple[int, ...] = (50, 75, 90, 100)
    """Percent of a limit, for budgets of an hour or longer that name no thresholds of their own."""
    forecast: bool = True
    incidents: bool = True
    """Anomalies in cost are looked for and told, each once."""
    quiet_hours: tuple[int, int] | None = None
    """(start, end) in minutes after midnight."""
    quiet_timezone: str = "UTC"
    quiet_passes: Literal["critical", "warning", "nothing"] = "critical"
    velocity: int | None = None
    velocity_factor: int | None = None
    velocity_floor: int = 1_000_000_000
    velocity_action: Literal["notify", "block"] = "notify"
    velocity_cooldown_ms: int = 60_000
    give_up_after_ms: int = 86_400_000
    retention_days: int = 400
    sinks: tuple[AlertSinkSettings, ...] = ()


class EmbedderSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[embedder]``: what makes vectors of questions for caches that serve similar ones."""

    kind: Literal["minilm", "onnx", "endpoint"] = "minilm"
    """``minilm``: the model that ``farthing embedder fetch`` puts into the installation's folder. ``onnx``: any
    sentence encoder in ``folder``. ``endpoint``: ``model`` of ``provider``, OpenAI-compatible, paid per call."""
    folder: str = ""
    """Holds ``model.onnx`` and ``tokenizer.json``."""
    provider: str = ""
    model: str = ""
    dimensions: int = 0
    """Numbers in the endpoint's vectors."""


class CacheStoreSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[cache_store]``: where answers are kept."""

    kind: Literal["memory", "sqlite", "valkey"] = "sqlite"
    """``memory``: gone with the process. ``sqlite``: ``cache.db`` in the installation's folder. ``valkey``: shared by
    gateways on several machines."""
    url_env: str = ""
    """Environment variable that holds Valkey's address."""
    name: str = "cache"
    """Tells apart several caches on one Valkey."""
    questions: Literal["sqlite", "postgres"] = "sqlite"
    """Where the semantic cache's questions are. ``sqlite``: ``semantic.db`` in the installation's folder.
    ``postgres``: the database of ``[store]``, with pgvector; shared by gateways on several machines."""
    entries_max: int = 100_000
    bytes_max: int = 1024 * 1024 * 1024
    memory_entries_max: int = 10_000
    """Of each process, in front of ``sqlite`` and ``valkey``; all there is with ``memory``."""
    memory_bytes_max: int = 64 * 1024 * 1024


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[store]``: where holds and the ledger are."""

    kind: Literal["sqlite", "postgres", "valkey"] = "sqlite"
    """``sqlite``: one file in the installation's folder. ``postgres``: PostgreSQL alone. ``valkey``: budgets in
    Valkey, the ledger in PostgreSQL."""
    postgres_url_env: str = "FARTHING_POSTGRES_URL"
    """Environment variable that holds PostgreSQL's URL."""
    valkey_url_env: str = "FARTHING_VALKEY_URL"
    """Environment variable that holds Valkey's URL."""
    namespace: str = "farthing"
    """PostgreSQL schema and Valkey hash tag; tells apart several installations on one server."""
    allowance: int = 0
    """Nano-USD of ceilings that each worker lets through while budgets cannot be asked, with
    ``on_store_failure = "allow"``."""


class BatchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[batches]``: the providers' batch APIs through the gateway."""

    poll_ms: int = 30_000
    """How often a running batch is looked at."""
    file_bytes_max: int = 200 * 1024 * 1024
    """A larger file of requests is refused."""
    queue: bool = False
    """Calls that say so wait for a batch; their prompts lie in the store until they are sent."""
    queue_size: int = 1_000
    """A batch is sent once so many calls wait for it."""
    queue_age_ms: int = 300_000
    """Or once the oldest has waited so long."""


class DashboardUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One person of the dashboard, ``[[dashboard.users]]``."""

    name: str
    role: Literal["admin", "analyst", "team"]
    """``admin``: everything. ``analyst``: sees everything, acknowledges alerts. ``team``: sees one team."""
    team: str = ""
    password_hash: str
    """Argon2id, as ``farthing dashboard password`` prints it."""


class DashboardSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[dashboard]``."""

    users: tuple[DashboardUser, ...] = ()
    """Nobody: whoever reaches a gateway on a loopback address is an admin, and elsewhere nobody is let in."""
    session_ms: int = 12 * 3_600_000
    """How long a sign-in lasts."""
    plain_http: bool = False
    """The session's cookie also travels over plain HTTP to other machines than this one."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole installation."""

    home: str
    """FARTHING_HOME: the folder that holds everything this installation writes."""
    server: ServerSettings = ServerSettings()
    providers: tuple[ProviderSettings, ...] = ()
    store: StoreSettings = StoreSettings()
    policy: Policy = Policy()
    alerts: AlertSettings = AlertSettings()
    analytics: AnalyticsSettings = AnalyticsSettings()
    cache_store: CacheStoreSettings = CacheStoreSettings()
    embedder: EmbedderSettings = EmbedderSettings()
    dashboard: DashboardSettings = DashboardSettings()
    batches: BatchSettings = BatchSettings()
    allocation: AllocationRules = AllocationRules()
    source: str = ""
    """The file the settings came from; empty: defaults."""
