-- Experiments that prove savings: what was tested, on whom, from when to when. A name is used once; a row is changed
-- once, when its experiment ends. Nothing here changes an entry.

CREATE TABLE experiments (
    name TEXT PRIMARY KEY,
    record TEXT NOT NULL,            -- JSON: the design, as it was before the first call
    starts_ms INTEGER NOT NULL,
    ends_ms INTEGER,                 -- planned; NULL: until it is stopped
    stopped_ms INTEGER,
    running INTEGER UNIQUE           -- 1 while it runs, else NULL: at most one does
) STRICT, WITHOUT ROWID;
