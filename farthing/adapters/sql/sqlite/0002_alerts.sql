-- Alerts: each happens once for all workers (alert_claims), is on record before it is sent (alerts, alert_deliveries),
-- and is sent by whichever worker holds the lease.

CREATE TABLE alert_claims (
    "key" TEXT PRIMARY KEY,
    alert_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    lapses_at_ms INTEGER             -- NULL: taken for good
) STRICT, WITHOUT ROWID;

CREATE TABLE alerts (
    id TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    budget TEXT NOT NULL,
    severity TEXT NOT NULL,
    record TEXT NOT NULL,            -- JSON
    acknowledged_at_ms INTEGER,
    acknowledged_by TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;

CREATE INDEX alerts_by_time ON alerts (at_ms);

CREATE TABLE alert_deliveries (
    alert_id TEXT NOT NULL,
    sink TEXT NOT NULL,
    state TEXT NOT NULL,             -- pending, sent, failed, dropped
    since_ms INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    leased_until_ms INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,
    why TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (alert_id, sink)
) STRICT, WITHOUT ROWID;

CREATE INDEX alert_deliveries_pending ON alert_deliveries (due_ms) WHERE state = 'pending';

CREATE TABLE alert_mutes (
    name TEXT PRIMARY KEY,
    until_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE alert_seen (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at_ms INTEGER NOT NULL
) STRICT;
