-- Batches of the providers' batch APIs while they run: whose they are, what they hold, who looks after them; and calls
-- that wait for one.

CREATE TABLE batch_files (
    id TEXT PRIMARY KEY,             -- the provider's
    provider TEXT NOT NULL,
    owner TEXT NOT NULL,             -- id of the key
    purpose TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    shown BLOB NOT NULL,             -- the provider's object
    batch TEXT NOT NULL,             -- of an output file
    asks BLOB NOT NULL               -- JSON: what an uploaded file asks for, without its text
) STRICT;

CREATE INDEX batch_files_by_owner ON batch_files (owner, created_ms);

CREATE TABLE batches (
    id TEXT PRIMARY KEY,
    upstream_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    dialect TEXT NOT NULL,
    owner TEXT NOT NULL,
    kind TEXT NOT NULL,              -- caller, queue
    state TEXT NOT NULL,             -- sending, open, ended, failed, lost
    created_ms INTEGER NOT NULL,
    shown BLOB NOT NULL,
    manifest BLOB NOT NULL,          -- JSON
    due_ms INTEGER NOT NULL,
    holder TEXT NOT NULL DEFAULT '',
    leased_until_ms INTEGER NOT NULL DEFAULT 0,
    hidden INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX batches_by_owner ON batches (owner, upstream_id);
CREATE INDEX batches_due ON batches (state, due_ms);

CREATE TABLE deferred_calls (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    provider TEXT NOT NULL,
    dialect TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    body BLOB NOT NULL,
    claim BLOB NOT NULL,             -- JSON: its group and share
    state TEXT NOT NULL,             -- queued, sent, done, failed, cancelled
    batch TEXT NOT NULL,
    status INTEGER NOT NULL,
    answer BLOB NOT NULL,
    model TEXT NOT NULL               -- as it is sent
) STRICT;

CREATE INDEX deferred_calls_by_state ON deferred_calls (state, created_ms);
CREATE INDEX deferred_calls_by_batch ON deferred_calls (batch);
