-- Money moves between accounts; what one gets another gives. Nothing in here is ever changed or taken out.
CREATE TABLE transaction (
    id text PRIMARY KEY, -- the key under which the provider has moved the money
    order_id text NOT NULL,
    reference text NOT NULL UNIQUE, -- the provider's name for it
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX transaction_by_order ON transaction (order_id);

CREATE TABLE entry (
    transaction_id text NOT NULL REFERENCES transaction,
    account text NOT NULL CHECK (account IN ('provider', 'revenue', 'refunds')),
    cents bigint NOT NULL CHECK (cents <> 0), -- what the account gets; below zero: what it gives
    currency char(3) NOT NULL,
    PRIMARY KEY (transaction_id, account)
);

CREATE FUNCTION require_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    key text := CASE TG_TABLE_NAME WHEN 'entry' THEN to_jsonb(NEW) ->> 'transaction_id' ELSE to_jsonb(NEW) ->> 'id' END;
BEGIN
    IF NOT EXISTS (SELECT FROM entry WHERE transaction_id = key)
        OR EXISTS (SELECT FROM entry WHERE transaction_id = key GROUP BY currency HAVING sum(cents) <> 0)
    THEN
        RAISE check_violation USING MESSAGE = format('transaction %s does not sum to zero', key);
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER entries_sum_to_zero AFTER INSERT ON entry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION require_balance();
CREATE CONSTRAINT TRIGGER has_entries AFTER INSERT ON transaction
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION require_balance();

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE restrict_violation USING MESSAGE = format('%s is only ever added to', TG_TABLE_NAME);
END $$;
CREATE TRIGGER transaction_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON transaction
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER entry_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON entry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- One row an order: what has become of its capture, and what is still to be done.
CREATE TABLE capture (
    order_id text PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('pending', 'captured', 'declined', 'refunded')),
    version int NOT NULL,
    cents bigint NOT NULL CHECK (cents > 0),
    currency char(3) NOT NULL,
    until timestamptz, -- null: its command has not come yet, only the refund's
    code text NOT NULL DEFAULT '',
    reference text NOT NULL DEFAULT '',
    refund_asked boolean NOT NULL DEFAULT false,
    refund_code text NOT NULL DEFAULT '',
    begun boolean NOT NULL DEFAULT false, -- the provider may have been asked for the next step
    due_at timestamptz, -- when the next step is to be taken; null: there is none
    claims bigint NOT NULL DEFAULT 0, -- how often it was taken on; so the last to do so is known from all before it
    correlation text NOT NULL
);
CREATE INDEX capture_by_due ON capture (due_at) WHERE due_at IS NOT NULL;
