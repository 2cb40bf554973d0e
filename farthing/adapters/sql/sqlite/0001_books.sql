-- The books in one file: ledger entries, the traffic log, counters of budgets, reservations, keys.
-- Amounts are nano-USD (10^-9 USD), times are UTC milliseconds since the epoch.

CREATE TABLE entries (
    seq                INTEGER PRIMARY KEY,  -- the order of booking
    id                 TEXT NOT NULL UNIQUE,
    request_id         TEXT NOT NULL,
    attempt            INTEGER NOT NULL,
    kind               TEXT NOT NULL,        -- charge | adjustment | reversal
    corrects           TEXT NOT NULL,        -- the entry that an adjustment or reversal corrects
    received_at_ms     INTEGER NOT NULL,
    booked_at_ms       INTEGER NOT NULL,
    org                TEXT NOT NULL,
    team               TEXT NOT NULL,
    project            TEXT NOT NULL,
    "user"             TEXT NOT NULL,
    feature            TEXT NOT NULL,
    customer           TEXT NOT NULL,
    session            TEXT NOT NULL,
    "key"              TEXT NOT NULL,        -- id of the virtual key
    tags               TEXT,                 -- JSON object; NULL: none
    dialect            TEXT NOT NULL,
    endpoint           TEXT NOT NULL,
    provider           TEXT NOT NULL,
    price_as           TEXT NOT NULL,
    model_requested    TEXT NOT NULL,
    model              TEXT NOT NULL,
    service_tier       TEXT NOT NULL,
    source             TEXT NOT NULL,        -- reported | partial | estimated | missing
    state              TEXT NOT NULL,        -- priced | free | unpriced
    reason             TEXT NOT NULL,
    amount_nusd        INTEGER,              -- NULL: unpriced, which is not zero
    computed_nusd      INTEGER,
    baseline_nusd      INTEGER,
    ceiling_nusd       INTEGER,
    fidelity           TEXT NOT NULL,
    price_book         TEXT NOT NULL,
    policy             TEXT NOT NULL,
    stream             INTEGER NOT NULL,
    status             INTEGER NOT NULL,
    error              TEXT NOT NULL,
    client_gone        INTEGER NOT NULL,
    ttft_ms            INTEGER,
    latency_ms         INTEGER NOT NULL,
    input_tokens       INTEGER NOT NULL,     -- all input, whatever its cache state
    cache_read_tokens  INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    output_tokens      INTEGER NOT NULL,     -- all output, reasoning included
    reasoning_tokens   INTEGER NOT NULL,
    lines              TEXT NOT NULL,        -- JSON array of charge lines
    usage              TEXT NOT NULL,        -- JSON: the normalised usage
    decisions          TEXT NOT NULL         -- JSON array
);
CREATE INDEX entries_request ON entries (request_id);
CREATE INDEX entries_received ON entries (received_at_ms);

CREATE TABLE exchanges (
    seq            INTEGER PRIMARY KEY,
    request_id     TEXT NOT NULL UNIQUE,
    received_at_ms INTEGER NOT NULL,
    outcome        TEXT NOT NULL,
    status         INTEGER NOT NULL,
    error          TEXT NOT NULL,
    latency_ms     INTEGER NOT NULL,
    amount_nusd    INTEGER,
    body           BLOB NOT NULL             -- the whole record as UTF-8 JSON
);
CREATE INDEX exchanges_received ON exchanges (received_at_ms);

-- One row per counter and worker process: what that worker booked, and the authority it may still spend or has
-- promised to open holds. Worker '' is the share of workers that are gone. For hard limits the sum of posted and
-- authority over a counter never passes the limit, except by money that was spent anyway.
CREATE TABLE shares (
    counter   TEXT NOT NULL,
    "window"  TEXT NOT NULL,
    unit      TEXT NOT NULL,
    worker    TEXT NOT NULL,
    posted    INTEGER NOT NULL,
    authority INTEGER NOT NULL,
    tight     INTEGER NOT NULL,              -- 1: authority is exactly the worker's open holds
    PRIMARY KEY (counter, "window", unit, worker)
) WITHOUT ROWID;

-- "Give back what you do not need": asked by one worker of all others.
CREATE TABLE recalls (
    counter  TEXT NOT NULL,
    "window" TEXT NOT NULL,
    unit     TEXT NOT NULL,
    worker   TEXT NOT NULL,
    PRIMARY KEY (counter, "window", unit, worker)
) WITHOUT ROWID;

CREATE TABLE workers (
    worker        TEXT PRIMARY KEY,
    pid           INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- Calls in flight. A row is deleted when its reservation is settled or expires.
CREATE TABLE reservations (
    id             TEXT PRIMARY KEY,
    worker         TEXT NOT NULL,
    request_id     TEXT NOT NULL,
    ceiling_nusd   INTEGER,
    reserved_at_ms INTEGER NOT NULL,
    expires_at_ms  INTEGER NOT NULL,
    holds          TEXT NOT NULL,            -- JSON: [counter, window, unit, limit, amount, budget, resets_at_ms, hard], …
    stub           TEXT                      -- JSON: what is known of the entry to come, or NULL
) WITHOUT ROWID;

CREATE TABLE keys (
    id            TEXT PRIMARY KEY,
    hash          TEXT NOT NULL UNIQUE,
    name          TEXT NOT NULL,
    hint          TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    revoked_at_ms INTEGER,
    record        TEXT NOT NULL              -- JSON: the whole record
) WITHOUT ROWID;

CREATE TABLE changes (
    name    TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO changes VALUES ('keys', 0);

-- Views for ad-hoc SQL. *_usd columns are exact decimal text; sum the *_nusd columns.
CREATE VIEW ledger AS
SELECT seq, id, request_id, attempt, kind, corrects,
    strftime('%Y-%m-%dT%H:%M:%S', received_at_ms / 1000, 'unixepoch') || printf('.%03dZ', received_at_ms % 1000)
        AS received_at,
    org, team, project, "user", feature, customer, session, "key", tags,
    dialect, endpoint, provider, model_requested, model, service_tier, source, state, reason,
    CASE WHEN amount_nusd IS NOT NULL THEN printf('%s%d.%09d', CASE WHEN amount_nusd < 0 THEN '-' ELSE '' END,
        abs(amount_nusd / 1000000000), abs(amount_nusd % 1000000000)) END AS amount_usd,
    amount_nusd,
    CASE WHEN baseline_nusd IS NOT NULL THEN printf('%s%d.%09d', CASE WHEN baseline_nusd < 0 THEN '-' ELSE '' END,
        abs(baseline_nusd / 1000000000), abs(baseline_nusd % 1000000000)) END AS baseline_usd,
    baseline_nusd, ceiling_nusd, fidelity, price_book, policy,
    input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    stream, status, error, client_gone, ttft_ms, latency_ms, received_at_ms, booked_at_ms
FROM entries;

CREATE VIEW ledger_lines AS
SELECT e.id AS entry_id, e.request_id, e.received_at_ms, e.provider,
    coalesce(nullif(json_extract(line.value, '$.model'), ''), e.model) AS model,
    line.key AS line,
    json_extract(line.value, '$.unit') AS unit,
    json_extract(line.value, '$.quantity') AS quantity,
    json_extract(line.value, '$.price') AS price_pusd,
    json_extract(line.value, '$.amount') AS amount_nusd
FROM entries AS e, json_each(e.lines) AS line;

CREATE VIEW requests AS
SELECT request_id, received_at_ms,
    strftime('%Y-%m-%dT%H:%M:%S', received_at_ms / 1000, 'unixepoch') || printf('.%03dZ', received_at_ms % 1000)
        AS received_at,
    outcome, status, error, latency_ms, amount_nusd,
    json_extract(CAST(body AS TEXT), '$.scope.team') AS team,
    json_extract(CAST(body AS TEXT), '$.scope.user') AS "user",
    json_extract(CAST(body AS TEXT), '$.scope.key') AS "key",
    json_extract(CAST(body AS TEXT), '$.view.model') AS model_requested
FROM exchanges;

CREATE VIEW reservations_open AS
SELECT id, request_id, worker, ceiling_nusd, reserved_at_ms, expires_at_ms, holds FROM reservations;

CREATE VIEW counters_now AS
SELECT counter, "window", unit, sum(posted) AS posted, sum(held) AS held FROM (
    SELECT counter, "window", unit, posted, 0 AS held FROM shares
    UNION ALL
    SELECT json_extract(hold.value, '$[0]'), json_extract(hold.value, '$[1]'),
        json_extract(hold.value, '$[2]'), 0, json_extract(hold.value, '$[4]')
    FROM reservations, json_each(reservations.holds) AS hold
) GROUP BY counter, "window", unit;
