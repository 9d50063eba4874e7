-- Who watches compares this with the snapshot that was read last: what that did not see has changed since. No index, so
-- that an update of a counter still finds room in the row's own page and touches no index.
ALTER TABLE stock ADD COLUMN changed_by xid8 NOT NULL DEFAULT pg_current_xact_id();

CREATE FUNCTION stock_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_by := pg_current_xact_id();
    RETURN NEW;
END
$$;

CREATE TRIGGER stock_changes BEFORE UPDATE ON stock FOR EACH ROW EXECUTE FUNCTION stock_changes();

-- Numbers of transactions mean something in this database only: a token from another one is known by this.
CREATE TABLE history (id uuid NOT NULL DEFAULT gen_random_uuid());
INSERT INTO history DEFAULT VALUES;
