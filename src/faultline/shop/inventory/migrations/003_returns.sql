-- What was sold may come back: `committed` stays what was ever sold, `returned` is what of it is here again.
ALTER TABLE stock ADD COLUMN returned bigint NOT NULL DEFAULT 0 CHECK (returned >= 0);
ALTER TABLE stock DROP CONSTRAINT stock_check;
ALTER TABLE stock ADD CHECK (available = received + returned - reserved - committed), ADD CHECK (returned <= committed);

ALTER TABLE movement DROP CONSTRAINT movement_kind_check;
ALTER TABLE movement
    ADD CHECK (kind IN ('received', 'reserved', 'committed', 'released', 'expired', 'returned'));

ALTER TABLE reservation DROP CONSTRAINT reservation_state_check;
ALTER TABLE reservation
    ADD CHECK (state IN ('reserved', 'rejected', 'committed', 'released', 'expired', 'returned'));
