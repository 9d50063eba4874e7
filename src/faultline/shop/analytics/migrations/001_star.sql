-- Extracted: each event once, as it came, but for whose it is and what no report asks for. Nothing in here goes away.
CREATE TABLE staged (
    id text PRIMARY KEY,
    position bigint GENERATED ALWAYS AS IDENTITY, -- in the order of arrival
    source text NOT NULL,
    type text NOT NULL,
    subject text NOT NULL, -- the order, the sku, or the customer
    sequence bigint NOT NULL,
    at timestamptz NOT NULL, -- when it happened, not when it came
    customer text,
    data jsonb NOT NULL,
    arrived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    loaded_at timestamptz
);
CREATE INDEX staged_to_load ON staged (position) WHERE loaded_at IS NULL;
CREATE INDEX staged_by_subject ON staged (subject);
CREATE INDEX staged_by_customer ON staged (customer) WHERE customer IS NOT NULL;

CREATE FUNCTION utc_day(at timestamptz) RETURNS date LANGUAGE sql IMMUTABLE AS $$
    SELECT (at AT TIME ZONE 'UTC')::date
$$;
CREATE INDEX staged_by_day ON staged (utc_day(at));

-- Who somebody is, only this key can tell: it never leaves this database.
CREATE TABLE pseudonym_key (key bytea NOT NULL);
INSERT INTO pseudonym_key SELECT sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8'));
CREATE TABLE erased (customer text PRIMARY KEY); -- so that what comes later is nobody's, too

-- Dimensions. Keys are natural ones, so a day that is built again is the same, row by row.
CREATE TABLE dim_date (
    day date PRIMARY KEY,
    year int NOT NULL,
    quarter int NOT NULL,
    month int NOT NULL,
    week int NOT NULL, -- ISO 8601, as is the weekday: 1 is Monday
    weekday int NOT NULL
);
CREATE TABLE dim_product ( -- slowly changing, type 2
    sku text NOT NULL,
    version bigint NOT NULL, -- the catalog's; 0: nobody has described it yet
    name text NOT NULL,
    brand text NOT NULL,
    category text NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_to timestamptz, -- null: until now
    PRIMARY KEY (sku, version)
);
CREATE TABLE dim_customer (
    customer text PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('guest', 'account', 'erased')),
    registered_on date
);
INSERT INTO dim_customer VALUES ('erased', 'erased', NULL);

-- Facts. A sale is a line of a confirmed order, on the day it was confirmed; a return, on the day it was closed.
CREATE TABLE fact_sales (
    order_id text NOT NULL,
    line bigint NOT NULL,
    day date NOT NULL REFERENCES dim_date DEFERRABLE INITIALLY DEFERRED,
    sold_at timestamptz NOT NULL,
    sku text NOT NULL,
    product_version bigint NOT NULL,
    customer text NOT NULL REFERENCES dim_customer DEFERRABLE INITIALLY DEFERRED,
    quantity bigint NOT NULL,
    cents bigint NOT NULL, -- of the line
    currency text NOT NULL,
    PRIMARY KEY (order_id, line),
    FOREIGN KEY (sku, product_version) REFERENCES dim_product DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE fact_returns (
    order_id text NOT NULL,
    line bigint NOT NULL,
    day date NOT NULL REFERENCES dim_date DEFERRABLE INITIALLY DEFERRED,
    sold_at timestamptz NOT NULL, -- as what it was sold it comes back
    returned_at timestamptz NOT NULL,
    sku text NOT NULL,
    product_version bigint NOT NULL,
    customer text NOT NULL REFERENCES dim_customer DEFERRABLE INITIALLY DEFERRED,
    quantity bigint NOT NULL,
    cents bigint NOT NULL,
    currency text NOT NULL,
    PRIMARY KEY (order_id, line),
    FOREIGN KEY (sku, product_version) REFERENCES dim_product DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE fact_payments (
    transaction_id text PRIMARY KEY,
    order_id text NOT NULL,
    day date NOT NULL REFERENCES dim_date DEFERRABLE INITIALLY DEFERRED,
    moved_at timestamptz NOT NULL,
    cents bigint NOT NULL, -- below zero: given back
    currency text NOT NULL
);
CREATE INDEX fact_sales_by_day ON fact_sales (day);
CREATE INDEX fact_sales_by_product ON fact_sales (sku);
CREATE INDEX fact_sales_by_customer ON fact_sales (customer);
CREATE INDEX fact_returns_by_day ON fact_returns (day);
CREATE INDEX fact_returns_by_product ON fact_returns (sku);
CREATE INDEX fact_returns_by_customer ON fact_returns (customer);
CREATE INDEX fact_payments_by_day ON fact_payments (day);
CREATE INDEX fact_payments_by_order ON fact_payments (order_id);

-- What each of them is to hold, as a question to what was staged: however that came, the answer is the same.
CREATE VIEW due_product AS
    WITH described AS (
        SELECT DISTINCT ON (subject, sequence) subject AS sku, sequence AS version, at, data
        FROM staged WHERE source = 'catalog'
        ORDER BY subject, sequence, starts_with(id, 'history/') -- what was heard before what was asked for
    ), timed AS (
        SELECT *, max(at) OVER earlier AS valid_from, data IS DISTINCT FROM lag(data) OVER earlier AS is_other
        FROM described WINDOW earlier AS (PARTITION BY sku ORDER BY version)
    )
    SELECT sku, version, data ->> 'name' AS name, data ->> 'brand' AS brand, data ->> 'category' AS category,
        valid_from, lead(valid_from) OVER (PARTITION BY sku ORDER BY version) AS valid_to
    FROM timed WHERE is_other;

CREATE FUNCTION version_at(asked text, moment timestamptz) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT version FROM dim_product WHERE sku = asked -- or the first one, where two machines' clocks disagree
    ORDER BY valid_from <= moment DESC, CASE WHEN valid_from <= moment THEN version ELSE -version END DESC LIMIT 1
$$;

CREATE VIEW order_story AS
    SELECT subject AS order_id,
        (array_agg(data ORDER BY sequence) FILTER (WHERE type = 'orders.order-placed.v1'))[1] AS placed,
        min(customer) AS customer,
        min(at) FILTER (WHERE type = 'orders.order-confirmed.v1') AS sold_at,
        min(at) FILTER (WHERE type = 'orders.return-closed.v1') AS returned_at
    FROM staged WHERE source = 'orders' GROUP BY subject;

CREATE VIEW due_sales AS
    SELECT order_id, line, utc_day(sold_at) AS day, sold_at, item ->> 'sku' AS sku,
        version_at(item ->> 'sku', sold_at) AS product_version, customer, (item ->> 'quantity')::bigint AS quantity,
        (item ->> 'cents')::bigint AS cents, item ->> 'currency' AS currency
    FROM order_story CROSS JOIN LATERAL jsonb_array_elements(placed -> 'lines') WITH ORDINALITY AS items (item, line)
    WHERE placed IS NOT NULL AND sold_at IS NOT NULL;

CREATE VIEW due_returns AS
    SELECT s.order_id, s.line, utc_day(o.returned_at) AS day, s.sold_at, o.returned_at, s.sku, s.product_version,
        s.customer, s.quantity, s.cents, s.currency
    FROM due_sales AS s JOIN order_story AS o USING (order_id) WHERE o.returned_at IS NOT NULL;

CREATE VIEW due_payments AS
    SELECT DISTINCT ON (data ->> 'transaction') data ->> 'transaction' AS transaction_id, subject AS order_id,
        utc_day(at) AS day, at AS moved_at, (data ->> 'cents')::bigint AS cents, data ->> 'currency' AS currency
    FROM staged WHERE source = 'payment'
    ORDER BY data ->> 'transaction', starts_with(id, 'history/'), id;

-- How far each source has come, and which days are over.
CREATE TABLE watermark (
    source text PRIMARY KEY,
    at timestamptz NOT NULL -- the newest event of it that is loaded
);
CREATE TABLE day (
    day date PRIMARY KEY,
    closed_at timestamptz -- null: open
);
CREATE TABLE reopening (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    day date NOT NULL,
    at timestamptz NOT NULL,
    reason text NOT NULL,
    event text NOT NULL -- what has changed the day after it was closed
);
CREATE INDEX reopening_by_day ON reopening (day);

CREATE TABLE backfill (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    history boolean NOT NULL, -- whether the sources are asked, too, for what has happened
    first date, -- null: from the first day that there is
    last date,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    stage text NOT NULL CHECK (stage IN ('orders', 'payment', 'catalog', 'days', 'done')),
    place text NOT NULL DEFAULT '', -- where in the stage: behind this
    events bigint NOT NULL DEFAULT 0, -- that were not staged before
    days int NOT NULL DEFAULT 0, -- that are built anew
    ended_at timestamptz,
    error text NOT NULL DEFAULT '' -- of the last attempt
);
INSERT INTO backfill (history, stage) VALUES (true, 'orders'); -- what happened before there was this database
