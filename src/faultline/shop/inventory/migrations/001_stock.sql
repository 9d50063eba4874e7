-- The counters are kept beside the movements that explain them; a counter that cannot be right is refused.
CREATE TABLE stock (
    sku text PRIMARY KEY,
    received bigint NOT NULL DEFAULT 0,
    reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    committed bigint NOT NULL DEFAULT 0 CHECK (committed >= 0),
    available bigint NOT NULL DEFAULT 0 CHECK (available >= 0),
    CHECK (available = received - reserved - committed)
);

CREATE TABLE movement (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku text NOT NULL REFERENCES stock,
    kind text NOT NULL CHECK (kind IN ('received', 'reserved', 'committed', 'released', 'expired')),
    quantity bigint NOT NULL CHECK (quantity > 0),
    reference text NOT NULL, -- the order, or the delivery
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (reference, sku, kind)
);

CREATE TABLE reservation (
    order_id text PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('reserved', 'rejected', 'committed', 'released', 'expired')),
    version int NOT NULL,
    expires_at timestamptz NOT NULL,
    short_of text NOT NULL DEFAULT ''
);
CREATE INDEX reservation_by_expiry ON reservation (expires_at) WHERE state = 'reserved';

-- What the order has asked for, also where it got nothing: a repeated request must be the same one.
CREATE TABLE reservation_line (
    order_id text NOT NULL REFERENCES reservation,
    sku text NOT NULL,
    quantity bigint NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (order_id, sku)
);
