-- Where the roll-outs of routes stand, what workers saw since, and which of them folds it.

CREATE TABLE route_states (
    route text PRIMARY KEY,
    record text NOT NULL
);

CREATE TABLE route_notes (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    record text NOT NULL
);

CREATE TABLE route_owner (
    one bigint PRIMARY KEY CHECK (one = 1),
    owner text NOT NULL,
    until_ms bigint NOT NULL
);
