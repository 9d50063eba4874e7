CREATE TABLE product (
    sku text PRIMARY KEY,
    name text NOT NULL,
    description text NOT NULL,
    brand text NOT NULL,
    category text NOT NULL,
    attributes jsonb NOT NULL,
    price_cents bigint NOT NULL CHECK (price_cents > 0),
    currency char(3) NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    retired_at timestamptz
);

-- One for each order in which pages are read: a page is found, however far down it is.
CREATE INDEX product_by_category ON product (category, sku) WHERE retired_at IS NULL;
CREATE INDEX product_by_price ON product (price_cents, sku) WHERE retired_at IS NULL;

-- What a product has cost, and since when. The price in `product` is that of the last row.
CREATE TABLE price (
    sku text NOT NULL REFERENCES product,
    version bigint NOT NULL,
    cents bigint NOT NULL CHECK (cents > 0),
    currency char(3) NOT NULL,
    valid_from timestamptz NOT NULL,
    PRIMARY KEY (sku, version)
);
