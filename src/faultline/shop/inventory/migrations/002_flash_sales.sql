-- `sold` is written by whoever has the sale's lease, as what it has read plus one: no row lock keeps two from reading the
-- same. What does is the lease, and the fence for whoever has lost it without noticing.
CREATE TABLE flash_sale (
    sku text PRIMARY KEY REFERENCES stock,
    units bigint NOT NULL CHECK (units > 0),
    sold bigint NOT NULL DEFAULT 0 CHECK (sold BETWEEN 0 AND units),
    fence bigint NOT NULL DEFAULT 0
);

CREATE TABLE flash_sale_unit (
    order_id text PRIMARY KEY REFERENCES reservation,
    sku text NOT NULL REFERENCES flash_sale,
    unit bigint NOT NULL, -- not unique: that would hide a lease that keeps nobody away
    token bigint NOT NULL
);
