-- Alerts: each happens once for all workers of all hosts (alert_claims), is on record before it is sent (alerts,
-- alert_deliveries), and is sent by whichever worker holds the lease.

CREATE TABLE alert_claims (
    "key" text PRIMARY KEY,
    alert_id text NOT NULL,
    at_ms bigint NOT NULL,
    lapses_at_ms bigint
);

CREATE TABLE alerts (
    id text PRIMARY KEY,
    at_ms bigint NOT NULL,
    budget text NOT NULL,
    severity text NOT NULL,
    record text NOT NULL,
    acknowledged_at_ms bigint,
    acknowledged_by text NOT NULL DEFAULT ''
);

CREATE INDEX alerts_by_time ON alerts (at_ms);

CREATE TABLE alert_deliveries (
    alert_id text NOT NULL,
    sink text NOT NULL,
    state text NOT NULL,
    since_ms bigint NOT NULL,
    due_ms bigint NOT NULL,
    leased_until_ms bigint NOT NULL DEFAULT 0,
    tries bigint NOT NULL DEFAULT 0,
    why text NOT NULL DEFAULT '',
    PRIMARY KEY (alert_id, sink)
);

CREATE INDEX alert_deliveries_pending ON alert_deliveries (due_ms) WHERE state = 'pending';

CREATE TABLE alert_mutes (
    name text PRIMARY KEY,
    until_ms bigint NOT NULL
);

CREATE TABLE alert_seen (
    id int PRIMARY KEY CHECK (id = 1),
    at_ms bigint NOT NULL
);
