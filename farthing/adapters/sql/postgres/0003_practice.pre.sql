-- What people say beside the ledger: incidents they take care of, days on which cost is expected, outcomes that calls
-- were good for, and who changed policy, prices and keys. Nothing here changes an entry.

CREATE TABLE incident_marks (
    incident text PRIMARY KEY,
    "by" text NOT NULL,
    at_ms bigint NOT NULL,
    note text NOT NULL
);

CREATE TABLE expected_days (
    id text PRIMARY KEY,
    "first" text NOT NULL,
    "last" text NOT NULL,
    slice text NOT NULL,
    why text NOT NULL,
    "by" text NOT NULL,
    at_ms bigint NOT NULL
);

CREATE TABLE anomaly_rules (
    grain text PRIMARY KEY,
    record text NOT NULL
);

CREATE TABLE outcomes (
    id text PRIMARY KEY,
    kind text NOT NULL,
    at_ms bigint NOT NULL,
    session text NOT NULL,
    request_id text NOT NULL,
    value_nusd bigint,
    success bigint NOT NULL
);

CREATE INDEX outcomes_by_time ON outcomes (at_ms);

CREATE TABLE changes_made (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms bigint NOT NULL,
    subject text NOT NULL,
    name text NOT NULL,
    "before" text NOT NULL,
    "after" text NOT NULL,
    "by" text NOT NULL,
    detail text NOT NULL
);

CREATE RULE changes_made_stay AS ON UPDATE TO changes_made DO INSTEAD NOTHING;
CREATE RULE changes_made_are_kept AS ON DELETE TO changes_made DO INSTEAD NOTHING;
