-- Batches of the providers' batch APIs while they run: whose they are, what they hold, who looks after them; and calls
-- that wait for one.

CREATE TABLE batch_files (
    id text PRIMARY KEY,             -- the provider's
    provider text NOT NULL,
    owner text NOT NULL,             -- id of the key
    purpose text NOT NULL,
    created_ms bigint NOT NULL,
    shown bytea NOT NULL,             -- the provider's object
    batch text NOT NULL,             -- of an output file
    asks bytea NOT NULL               -- JSON: what an uploaded file asks for, without its text
);

CREATE INDEX batch_files_by_owner ON batch_files (owner, created_ms);

CREATE TABLE batches (
    id text PRIMARY KEY,
    upstream_id text NOT NULL,
    provider text NOT NULL,
    dialect text NOT NULL,
    owner text NOT NULL,
    kind text NOT NULL,              -- caller, queue
    state text NOT NULL,             -- sending, open, ended, failed, lost
    created_ms bigint NOT NULL,
    shown bytea NOT NULL,
    manifest bytea NOT NULL,          -- JSON
    due_ms bigint NOT NULL,
    holder text NOT NULL DEFAULT '',
    leased_until_ms bigint NOT NULL DEFAULT 0,
    hidden bigint NOT NULL DEFAULT 0
);

CREATE INDEX batches_by_owner ON batches (owner, upstream_id);
CREATE INDEX batches_due ON batches (state, due_ms);

CREATE TABLE deferred_calls (
    id text PRIMARY KEY,
    owner text NOT NULL,
    provider text NOT NULL,
    dialect text NOT NULL,
    endpoint text NOT NULL,
    created_ms bigint NOT NULL,
    body bytea NOT NULL,
    claim bytea NOT NULL,             -- JSON: its group and share
    state text NOT NULL,             -- queued, sent, done, failed, cancelled
    batch text NOT NULL,
    status bigint NOT NULL,
    answer bytea NOT NULL,
    model text NOT NULL               -- as it is sent
);

CREATE INDEX deferred_calls_by_state ON deferred_calls (state, created_ms);
CREATE INDEX deferred_calls_by_batch ON deferred_calls (batch);
