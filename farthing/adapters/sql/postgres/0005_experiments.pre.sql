-- Experiments that prove savings: what was tested, on whom, from when to when. A name is used once; a row is changed
-- once, when its experiment ends. Nothing here changes an entry.

CREATE TABLE experiments (
    name text PRIMARY KEY,
    record text NOT NULL,
    starts_ms bigint NOT NULL,
    ends_ms bigint,
    stopped_ms bigint,
    running bigint UNIQUE
);
