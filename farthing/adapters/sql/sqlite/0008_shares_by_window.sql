-- Counters of one window stand together: those of windows that are over are never touched again, however many there
-- are, and what is booked now meets a small part of the file. Columns are as they were.
DROP VIEW counters_now;

CREATE TABLE shares_by_window (
    counter   TEXT NOT NULL,
    "window"  TEXT NOT NULL,
    unit      TEXT NOT NULL,
    worker    TEXT NOT NULL,
    posted    INTEGER NOT NULL,
    authority INTEGER NOT NULL,
    tight     INTEGER NOT NULL,              -- 1: authority is exactly the worker's open holds
    PRIMARY KEY ("window", counter, unit, worker)
) WITHOUT ROWID;
INSERT INTO shares_by_window
SELECT counter, "window", unit, worker, posted, authority, tight FROM shares
ORDER BY "window", counter, unit, worker;
DROP TABLE shares;
ALTER TABLE shares_by_window RENAME TO shares;

-- What a worker left behind is found without reading the rest.
CREATE INDEX shares_of_workers ON shares (worker) WHERE worker <> '';

CREATE VIEW counters_now AS
SELECT counter, "window", unit, sum(posted) AS posted, sum(held) AS held FROM (
    SELECT counter, "window", unit, posted, 0 AS held FROM shares
    UNION ALL
    SELECT json_extract(post.value, '$[0]'), json_extract(post.value, '$[1]'),
        json_extract(post.value, '$[2]'), json_extract(post.value, '$[3]'), 0
    FROM posts, json_each(posts.body) AS post
    UNION ALL
    SELECT json_extract(hold.value, '$[0]'), json_extract(hold.value, '$[1]'),
        json_extract(hold.value, '$[2]'), 0, json_extract(hold.value, '$[4]')
    FROM reservations, json_each(reservations.holds) AS hold
) GROUP BY counter, "window", unit;
