-- The ledger in PostgreSQL. Amounts are nano-USD (10^-9 USD), times are UTC milliseconds since the epoch.

CREATE TABLE entries (
    seq                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                 text NOT NULL UNIQUE,
    request_id         text NOT NULL,
    attempt            bigint NOT NULL,
    kind               text NOT NULL,
    corrects           text NOT NULL,
    received_at_ms     bigint NOT NULL,
    booked_at_ms       bigint NOT NULL,
    org                text NOT NULL,
    team               text NOT NULL,
    project            text NOT NULL,
    "user"             text NOT NULL,
    feature            text NOT NULL,
    customer           text NOT NULL,
    session            text NOT NULL,
    "key"              text NOT NULL,
    tags               json,
    dialect            text NOT NULL,
    endpoint           text NOT NULL,
    provider           text NOT NULL,
    price_as           text NOT NULL,
    model_requested    text NOT NULL,
    model              text NOT NULL,
    service_tier       text NOT NULL,
    source             text NOT NULL,
    state              text NOT NULL,
    reason             text NOT NULL,
    amount_nusd        bigint,               -- NULL: unpriced, which is not zero
    computed_nusd      bigint,
    baseline_nusd      bigint,
    ceiling_nusd       bigint,
    fidelity           text NOT NULL,
    price_book         text NOT NULL,
    policy             text NOT NULL,
    stream             boolean NOT NULL,
    status             bigint NOT NULL,
    error              text NOT NULL,
    client_gone        boolean NOT NULL,
    ttft_ms            bigint,
    latency_ms         bigint NOT NULL,
    input_tokens       bigint NOT NULL,
    cache_read_tokens  bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens      bigint NOT NULL,
    reasoning_tokens   bigint NOT NULL,
    lines              json NOT NULL,
    usage              json NOT NULL,
    decisions          json NOT NULL
);
CREATE INDEX entries_request ON entries (request_id);
CREATE INDEX entries_received ON entries (received_at_ms);

CREATE TABLE exchanges (
    seq            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id     text NOT NULL UNIQUE,
    received_at_ms bigint NOT NULL,
    outcome        text NOT NULL,
    status         bigint NOT NULL,
    error          text NOT NULL,
    latency_ms     bigint NOT NULL,
    amount_nusd    bigint,
    body           json NOT NULL             -- the whole record
);
CREATE INDEX exchanges_received ON exchanges (received_at_ms);

-- What is booked on each counter; version grows with every change, so that copies elsewhere know which is newer.
CREATE TABLE counters (
    counter  text NOT NULL,
    "window" text NOT NULL,
    unit     text NOT NULL,
    posted   numeric NOT NULL,
    version  bigint NOT NULL,
    ends_at_ms bigint NOT NULL,              -- when it counts for nothing any more; 0: never
    PRIMARY KEY (counter, "window", unit)
);

-- Authority that workers took of a counter's room and have not given back. Used by kind = "postgres" only.
CREATE TABLE leases (
    counter   text NOT NULL,
    "window"  text NOT NULL,
    unit      text NOT NULL,
    worker    text NOT NULL,
    authority numeric NOT NULL,
    acked     bigint NOT NULL,               -- the last recall after which authority was exactly what was in use
    PRIMARY KEY (counter, "window", unit, worker)
);
CREATE INDEX leases_worker ON leases (worker);

-- "Give back what you do not need."
CREATE TABLE recalls (
    counter  text NOT NULL,
    "window" text NOT NULL,
    unit     text NOT NULL,
    number   bigint NOT NULL,
    now_ms   bigint NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (counter, "window", unit)
);
CREATE SEQUENCE recall_numbers;

CREATE TABLE workers (
    worker     text PRIMARY KEY,
    release    bigint NOT NULL,              -- schema version that this worker's code knows
    shipped    bigint NOT NULL,              -- its journal's records up to here are in the ledger
    lost       boolean NOT NULL,             -- it was silent for too long: its calls in flight were booked
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Calls in flight for longer than a moment.
CREATE TABLE reservations (
    id             text PRIMARY KEY,
    worker         text NOT NULL,
    request_id     text NOT NULL,
    ceiling_nusd   bigint,
    reserved_at_ms bigint NOT NULL,
    expires_at_ms  bigint NOT NULL,
    holds          text NOT NULL,
    stub           text
);
CREATE INDEX reservations_worker ON reservations (worker);

-- Entries whose id was taken by other content: nothing that was spent is ever dropped.
CREATE TABLE conflicts (
    seq      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entry_id text NOT NULL,
    worker   text NOT NULL,
    found_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    entry    json NOT NULL
);

CREATE TABLE keys (
    id            text PRIMARY KEY,
    hash          text NOT NULL UNIQUE,
    name          text NOT NULL,
    hint          text NOT NULL,
    created_at_ms bigint NOT NULL,
    revoked_at_ms bigint,
    record        text NOT NULL
);
CREATE TABLE changes (name text PRIMARY KEY, version bigint NOT NULL);
INSERT INTO changes VALUES ('keys', 0);

CREATE VIEW ledger AS
SELECT seq, id, request_id, attempt, kind, corrects,
    to_timestamp(received_at_ms / 1000.0) AS received_at,
    org, team, project, "user", feature, customer, session, "key", tags,
    dialect, endpoint, provider, model_requested, model, service_tier, source, state, reason,
    amount_nusd / 1000000000.0 AS amount_usd, amount_nusd,
    baseline_nusd / 1000000000.0 AS baseline_usd, baseline_nusd, ceiling_nusd, fidelity, price_book, policy,
    input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    stream, status, error, client_gone, ttft_ms, latency_ms, received_at_ms, booked_at_ms
FROM entries;
