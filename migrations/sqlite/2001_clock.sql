-- The latest time that a hub of this installation saw, and since when, by a clock that is far beyond it, that clock is doubted.
ALTER TABLE installation ADD COLUMN clock_seen BIGINT;
ALTER TABLE installation ADD COLUMN clock_doubted BIGINT;
