-- Ledger and traffic log for analytics. Amounts are nano-USD (10^-9 USD), times are UTC milliseconds since the epoch.
-- A row that was sent twice is one row: by its sorting key under FINAL, and by the batch's token on arrival.

CREATE TABLE IF NOT EXISTS entries (
    id                 String,
    request_id         String,
    attempt            Int64,
    kind               LowCardinality(String),
    corrects           String,
    received_at_ms     Int64,
    booked_at_ms       Int64,
    org                LowCardinality(String),
    team               LowCardinality(String),
    project            LowCardinality(String),
    "user"             String,
    feature            LowCardinality(String),
    customer           String,
    session            String,
    "key"              LowCardinality(String),
    tags               Map(String, String),
    dialect            LowCardinality(String),
    endpoint           LowCardinality(String),
    provider           LowCardinality(String),
    price_as           LowCardinality(String),
    model_requested    LowCardinality(String),
    model              LowCardinality(String),
    service_tier       LowCardinality(String),
    source             LowCardinality(String),
    state              LowCardinality(String),
    reason             LowCardinality(String),
    amount_nusd        Nullable(Int64),
    computed_nusd      Nullable(Int64),
    baseline_nusd      Nullable(Int64),
    ceiling_nusd       Nullable(Int64),
    fidelity           LowCardinality(String),
    price_book         LowCardinality(String),
    policy             LowCardinality(String),
    stream             Bool,
    status             Int64,
    error              LowCardinality(String),
    client_gone        Bool,
    ttft_ms            Nullable(Int64),
    latency_ms         Int64,
    input_tokens       Int64,
    cache_read_tokens  Int64,
    cache_write_tokens Int64,
    output_tokens      Int64,
    reasoning_tokens   Int64,
    lines              String CODEC(ZSTD(3)),
    usage              String CODEC(ZSTD(3)),
    decisions          String CODEC(ZSTD(3))
) ENGINE = ReplacingMergeTree
PARTITION BY intDiv(received_at_ms, 2592000000)
ORDER BY (received_at_ms, id)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS exchanges (
    request_id     String,
    received_at_ms Int64,
    outcome        LowCardinality(String),
    status         Int64,
    error          LowCardinality(String),
    latency_ms     Int64,
    amount_nusd    Nullable(Int64),
    body           String CODEC(ZSTD(3))
) ENGINE = ReplacingMergeTree
PARTITION BY intDiv(received_at_ms, 2592000000)
ORDER BY (received_at_ms, request_id)
SETTINGS non_replicated_deduplication_window = 1000;
