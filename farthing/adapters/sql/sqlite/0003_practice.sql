-- What people say beside the ledger: incidents they take care of, days on which cost is expected, outcomes that calls
-- were good for, and who changed policy, prices and keys. Nothing here changes an entry.

CREATE TABLE incident_marks (
    incident TEXT PRIMARY KEY,
    "by" TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    note TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE expected_days (
    id TEXT PRIMARY KEY,
    "first" TEXT NOT NULL,           -- UTC day
    "last" TEXT NOT NULL,
    slice TEXT NOT NULL,
    why TEXT NOT NULL,
    "by" TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE anomaly_rules (
    grain TEXT PRIMARY KEY,
    record TEXT NOT NULL             -- JSON
) STRICT, WITHOUT ROWID;

CREATE TABLE outcomes (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    session TEXT NOT NULL,
    request_id TEXT NOT NULL,
    value_nusd INTEGER,              -- NULL: not said
    success INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX outcomes_by_time ON outcomes (at_ms);

CREATE TABLE changes_made (
    seq INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    subject TEXT NOT NULL,
    name TEXT NOT NULL,
    "before" TEXT NOT NULL,
    "after" TEXT NOT NULL,
    "by" TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;

CREATE TRIGGER changes_made_stay BEFORE UPDATE ON changes_made BEGIN SELECT raise(ABORT, 'append-only'); END;
CREATE TRIGGER changes_made_are_kept BEFORE DELETE ON changes_made BEGIN SELECT raise(ABORT, 'append-only'); END;
