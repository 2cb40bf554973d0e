-- Where the roll-outs of routes stand, what workers saw since, and which of them folds it.

CREATE TABLE route_states (
    route TEXT PRIMARY KEY,
    record TEXT NOT NULL             -- JSON
) STRICT, WITHOUT ROWID;

CREATE TABLE route_notes (
    seq INTEGER PRIMARY KEY,
    record TEXT NOT NULL             -- JSON
) STRICT;

CREATE TABLE route_owner (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    owner TEXT NOT NULL,
    until_ms INTEGER NOT NULL
) STRICT;
