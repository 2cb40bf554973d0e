-- What a lone worker booked on many counters of a window, in their order: written one row after the other, where rows of
-- `shares` lie all over a large file. What is booked on a counter is the sum of its rows in `shares`, of its amounts in
-- all runs of its window and unit, and of what is logged in `posts`.

CREATE TABLE runs (
    run      INTEGER PRIMARY KEY,
    "window" TEXT NOT NULL,
    unit     TEXT NOT NULL
) STRICT;

CREATE INDEX runs_by_window ON runs ("window", unit);

CREATE TABLE run_rows (
    run      INTEGER NOT NULL REFERENCES runs,
    first    TEXT NOT NULL,          -- the least of its counters; none of them is in another row of the run
    counters INTEGER NOT NULL,
    body     TEXT NOT NULL,          -- JSON: {counter: amount, …}
    PRIMARY KEY (run, first)
) STRICT;

DROP VIEW counters_now;

CREATE VIEW counters_now AS
SELECT counter, "window", unit, sum(posted) AS posted, sum(held) AS held FROM (
    SELECT counter, "window", unit, posted, 0 AS held FROM shares
    UNION ALL
    SELECT one.key, runs."window", runs.unit, one.value, 0
    FROM runs JOIN run_rows USING (run), json_each(run_rows.body) AS one
    UNION ALL
    SELECT json_extract(post.value, '$[0]'), json_extract(post.value, '$[1]'),
        json_extract(post.value, '$[2]'), json_extract(post.value, '$[3]'), 0
    FROM posts, json_each(posts.body) AS post
    UNION ALL
    SELECT json_extract(hold.value, '$[0]'), json_extract(hold.value, '$[1]'),
        json_extract(hold.value, '$[2]'), 0, json_extract(hold.value, '$[4]')
    FROM reservations, json_each(reservations.holds) AS hold
) GROUP BY counter, "window", unit;
