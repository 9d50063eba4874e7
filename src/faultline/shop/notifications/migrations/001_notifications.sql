-- One row a recipient, locked by whoever tells them something until that is committed: so numbers follow each other
-- without a hole, and whoever sees one sees all that are smaller.
CREATE TABLE mailbox (
    recipient text PRIMARY KEY,
    last bigint NOT NULL DEFAULT 0,
    erased_at timestamptz -- nobody is told anything any more; the row stays, or a late event would begin a new one
);

CREATE TABLE notification (
    recipient text NOT NULL REFERENCES mailbox,
    number bigint NOT NULL CHECK (number > 0),
    id text NOT NULL UNIQUE,
    event text NOT NULL, -- the id of what it tells of
    template text NOT NULL,
    about text NOT NULL, -- the order, or the account
    title text NOT NULL,
    text text NOT NULL,
    told_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    read_at timestamptz,
    PRIMARY KEY (recipient, number),
    UNIQUE (event, recipient)
);
CREATE INDEX notification_unread ON notification (recipient) WHERE read_at IS NULL;

-- Payment's events name the order only; whose it is was said when it was placed.
CREATE TABLE buyer (
    order_id text PRIMARY KEY,
    recipient text NOT NULL
);

-- What was heard of an order before its placing was: it is told then.
CREATE TABLE early (
    event text PRIMARY KEY,
    type text NOT NULL,
    order_id text NOT NULL,
    data jsonb NOT NULL,
    correlation text NOT NULL
);
CREATE INDEX early_by_order ON early (order_id);
