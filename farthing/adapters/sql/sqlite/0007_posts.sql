-- What a worker booked on counters since it last brought its rows of `shares` up to date: one row a group commit, written
-- one after the other, where rows of `shares` lie all over the file. A row's own `authority` covers what stands here.

CREATE TABLE posts (
    seq    INTEGER PRIMARY KEY,
    worker TEXT NOT NULL,
    body   TEXT NOT NULL             -- JSON: [[counter, window, unit, amount], …]
) STRICT;

-- At most one row: the worker that is the only one. It decides by what is booked, and needs no authority of its own.
-- Whoever else comes waits until that worker has deleted the row.
CREATE TABLE alone (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    worker TEXT NOT NULL
) STRICT;

DROP VIEW counters_now;

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
