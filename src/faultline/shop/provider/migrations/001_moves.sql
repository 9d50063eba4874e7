-- One row for every key that was accepted: asked again, it is answered from here.
CREATE TABLE move (
    key text PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('charge', 'refund')),
    asked jsonb NOT NULL, -- the body: the same key with another one is refused
    charge text REFERENCES move, -- of a refund: what it gives back
    code text NOT NULL, -- why it was declined; empty if it was not
    cents bigint NOT NULL CHECK (cents > 0),
    currency char(3) NOT NULL,
    reference text NOT NULL UNIQUE,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX given_back_once ON move (charge) WHERE code = '';

-- How many lines it has. The row is locked until a line is there: so lines are seen in their order, without a gap.
CREATE TABLE book (lines bigint NOT NULL);
INSERT INTO book VALUES (0);

CREATE TABLE statement_line (
    position bigint PRIMARY KEY,
    key text NOT NULL UNIQUE REFERENCES move,
    cents bigint NOT NULL -- below zero: what was given back
);

CREATE TABLE webhook (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL REFERENCES move,
    due_at timestamptz NOT NULL, -- when it is sent, next
    attempts int NOT NULL DEFAULT 0,
    acknowledged_at timestamptz
);
CREATE INDEX webhook_by_due ON webhook (due_at) WHERE acknowledged_at IS NULL;

-- How it misbehaves; one row.
CREATE TABLE behaviour (faults jsonb NOT NULL);
INSERT INTO behaviour VALUES ('{}');
