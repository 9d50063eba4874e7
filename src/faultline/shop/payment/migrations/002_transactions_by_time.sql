-- A day's lines are asked for, to compare them with what others have heard of.
CREATE INDEX transaction_by_time ON transaction (at);
