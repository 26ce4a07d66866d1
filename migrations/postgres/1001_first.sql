-- Times are microseconds since the Unix epoch, lists and objects JSON.
-- `day` is the day on which the session was made, counted from the epoch. All chunks of a session lie in the partition
-- of its day, and a partition is dropped whole when no session of its day is left.

CREATE TABLE installation (
    one SMALLINT PRIMARY KEY CHECK (one = 1),
    id UUID NOT NULL,
    made_at BIGINT NOT NULL,
    sessions_made BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE sessions (
    id UUID PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    day BIGINT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    app TEXT NOT NULL,
    owner TEXT NOT NULL,
    command TEXT NOT NULL,
    tty BOOLEAN NOT NULL,
    record BOOLEAN NOT NULL,
    detached BOOLEAN NOT NULL,
    backend TEXT NOT NULL,
    place TEXT NOT NULL,
    idempotency_key TEXT,
    request_hash TEXT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    ended_at BIGINT,
    exit TEXT,
    -- The journal: chunks of records `first_seq` up to `next_seq` are there, `journal_from` to `journal_to` in offsets.
    first_seq BIGINT NOT NULL DEFAULT 0,
    next_seq BIGINT NOT NULL DEFAULT 0,
    next_screen BIGINT NOT NULL DEFAULT 0,
    journal_from BIGINT NOT NULL DEFAULT 0,
    journal_to BIGINT NOT NULL DEFAULT 0,
    stored_bytes BIGINT NOT NULL DEFAULT 0
);

CREATE UNIQUE INDEX sessions_key ON sessions (owner, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX sessions_day ON sessions (day);
CREATE INDEX sessions_created ON sessions (created_at, id);
CREATE INDEX sessions_live ON sessions (owner, app) WHERE ended_at IS NULL;
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;

-- `kind` is 0 for records and 1 for a screen. No reference to `sessions`: it would delete rows one by one where a dropped
-- partition does. Chunks without a session are never read.
CREATE TABLE chunks (
    session UUID NOT NULL,
    day BIGINT NOT NULL,
    kind SMALLINT NOT NULL,
    seq BIGINT NOT NULL,
    from_offset BIGINT NOT NULL,
    to_offset BIGINT NOT NULL,
    first_time BIGINT NOT NULL,
    last_time BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    data BYTEA NOT NULL,
    PRIMARY KEY (session, kind, seq, day)
) PARTITION BY RANGE (day);

-- The data is compressed already.
ALTER TABLE chunks ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE INDEX chunks_offset ON chunks (session, kind, to_offset, seq, bytes);

CREATE TABLE tickets (
    id UUID PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    session UUID NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    access TEXT NOT NULL,
    issuer TEXT NOT NULL,
    one_use BOOLEAN NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    revoked_at BIGINT,
    resume_hash TEXT
);

CREATE INDEX tickets_session ON tickets (session);
CREATE INDEX tickets_resume ON tickets (resume_hash) WHERE resume_hash IS NOT NULL;

-- Outlives the sessions that it speaks of.
CREATE TABLE audit (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    session UUID,
    address TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL
);

CREATE INDEX audit_time ON audit (time, id);
CREATE INDEX audit_session ON audit (session, time) WHERE session IS NOT NULL;

CREATE TABLE replicas (
    id UUID PRIMARY KEY,
    url TEXT NOT NULL,
    seen_at BIGINT NOT NULL,
    epoch BIGINT NOT NULL
);
