"""The composition root: the only module that names adapters. Everything is built from ``Settings``.

Nothing is global: ``build`` may be called any number of times in one process, so that a gateway and a replay can
run side by side.
"""

from farthing.bootstrap.building import Installation, build
from farthing.bootstrap.caching import embedder_state, fetch_embedder, open_answers, open_semantic_records, tokenizer
from farthing.bootstrap.home import (
    DASHBOARD_SECRET_FILE,
    LEDGER_FILE,
    SALT_FILE,
    ledger_path,
    load_settings,
    open_practice,
    salt_of,
)
from farthing.bootstrap.opening import (
    admin_key,
    alert_sinks,
    check_store,
    clickhouse_state,
    export_parquet,
    note_state,
    open_alerts,
    open_balances,
    open_batches,
    open_importer,
    open_keys,
    open_ledger,
    open_reports,
    open_shipper,
    open_spans,
    provider_reports,
    spans_state,
    store_status,
    write_focus,
)
from farthing.bootstrap.pricing import append_prices, load_prices, price_book, prices_of, take_prices
from farthing.bootstrap.replaying import open_log, replay_part, replay_services
from farthing.bootstrap.routing import open_embedder, rollouts_of, routes_of, routing_of, trained_of
from farthing.bootstrap.serving import check_exposure, factory, serve, uvicorn_config, uvicorn_options

__all__ = [
    "DASHBOARD_SECRET_FILE",
    "LEDGER_FILE",
    "SALT_FILE",
    "Installation",
    "admin_key",
    "alert_sinks",
    "append_prices",
    "build",
    "check_exposure",
    "check_store",
    "clickhouse_state",
    "embedder_state",
    "export_parquet",
    "factory",
    "fetch_embedder",
    "ledger_path",
    "load_prices",
    "load_settings",
    "note_state",
    "open_alerts",
    "open_answers",
    "open_balances",
    "open_batches",
    "open_embedder",
    "open_importer",
    "open_keys",
    "open_ledger",
    "open_log",
    "open_practice",
    "open_reports",
    "open_semantic_records",
    "open_shipper",
    "open_spans",
    "price_book",
    "prices_of",
    "provider_reports",
    "replay_part",
    "replay_services",
    "rollouts_of",
    "routes_of",
    "routing_of",
    "salt_of",
    "serve",
    "spans_state",
    "store_status",
    "take_prices",
    "tokenizer",
    "trained_of",
    "uvicorn_config",
    "uvicorn_options",
    "write_focus",
]
