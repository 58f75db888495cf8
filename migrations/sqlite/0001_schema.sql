-- Times are milliseconds since 1970-01-01T00:00:00Z. Ids that are UUIDs are blobs of 16 bytes. Text is compared and
-- ordered by its bytes, as in the other store.

-- What changed somewhere in the cluster: one counter per subject.
CREATE TABLE revisions (
    topic TEXT NOT NULL PRIMARY KEY,
    n INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO revisions (topic, n) VALUES ('runs', 0), ('devices', 0), ('plugins', 0), ('suppressions', 0), ('tokens', 0);

CREATE TABLE hosts (
    id BLOB NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    roles TEXT NOT NULL,
    active_workers INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL
) STRICT;

CREATE TABLE tokens (
    id BLOB NOT NULL PRIMARY KEY,
    secret BLOB NOT NULL UNIQUE,            -- sha256 of the secret
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,                   -- JSON array
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE TABLE idempotency_keys (
    owner BLOB NOT NULL,
    key TEXT NOT NULL,
    request BLOB NOT NULL,
    status INTEGER NOT NULL,                -- 0: the first call is still running
    body TEXT NOT NULL,
    claimed_at INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (claimed_at);

CREATE TABLE audit_log (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL
) STRICT;

CREATE TABLE devices (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    channel TEXT NOT NULL,
    account TEXT,
    spec TEXT NOT NULL,                     -- JSON of the device's specification
    held TEXT,                              -- why it is on hold
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER                      -- the row stays: messages show its id
) STRICT;
CREATE INDEX devices_by_account ON devices (account) WHERE account IS NOT NULL;
CREATE INDEX devices_by_change ON devices (updated_at);

CREATE TABLE device_tags (
    tag TEXT NOT NULL,
    device_no INTEGER NOT NULL REFERENCES devices (no),
    PRIMARY KEY (tag, device_no)
) STRICT, WITHOUT ROWID;
CREATE INDEX device_tags_by_device ON device_tags (device_no);

-- What a device's limiter remembers, for when the queue has lost it.
CREATE TABLE device_state (
    device_no INTEGER PRIMARY KEY,
    next_at INTEGER NOT NULL,
    token INTEGER NOT NULL,                 -- fencing token of the lease under which it was computed
    pace TEXT NOT NULL                      -- JSON
) STRICT;

-- Versions of audiences. state: 0 being uploaded, 1 current, 2 replaced or thrown away, 3 contacts of a sequence.
CREATE TABLE audiences (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    state INTEGER NOT NULL,
    columns TEXT NOT NULL,                  -- JSON array of names
    contacts INTEGER NOT NULL DEFAULT 0,
    last INTEGER NOT NULL DEFAULT 0,        -- the last number used
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX audiences_current ON audiences (name) WHERE state = 1;
CREATE INDEX audiences_to_prune ON audiences (no) WHERE state IN (0, 2);

CREATE TABLE contacts (
    audience_no INTEGER NOT NULL,
    no INTEGER NOT NULL,                    -- from 1
    address TEXT NOT NULL,
    locale TEXT,
    zone TEXT,
    variables TEXT NOT NULL,                -- JSON array of [name, value]
    PRIMARY KEY (audience_no, no)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX contacts_by_address ON contacts (audience_no, address);

CREATE TABLE plugin_versions (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    kind TEXT NOT NULL,
    digest BLOB NOT NULL,
    size INTEGER NOT NULL,
    info TEXT NOT NULL,                     -- JSON
    imports TEXT NOT NULL,                  -- JSON array
    uploaded_at INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    UNIQUE (name, version)
) STRICT;

CREATE TABLE plugins (
    name TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    active_no INTEGER REFERENCES plugin_versions (no)
) STRICT;

CREATE TABLE campaigns (
    id BLOB NOT NULL PRIMARY KEY,           -- version 7: sorts by age
    spec TEXT NOT NULL,                     -- JSON
    status TEXT NOT NULL,
    paused_reason TEXT,
    run_key INTEGER,                        -- its newest run
    start_at INTEGER,                       -- from the specification
    expires_at INTEGER,                     -- from the specification
    created_at INTEGER NOT NULL,
    launched_at INTEGER,
    finished_at INTEGER
) STRICT;
CREATE INDEX campaigns_by_status ON campaigns (status, id);
CREATE INDEX campaigns_due ON campaigns (start_at) WHERE status = 'scheduled';
CREATE INDEX campaigns_past_expiry ON campaigns (expires_at)
    WHERE status IN ('scheduled', 'expanding', 'running', 'paused');

CREATE TABLE sequences (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    spec TEXT NOT NULL,                     -- JSON
    status TEXT NOT NULL,
    paused_reason TEXT,
    audience_no INTEGER NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

-- A run holds the messages of one occurrence of a campaign, or of one step of a sequence.
CREATE TABLE runs (
    key INTEGER PRIMARY KEY,
    campaign_id BLOB REFERENCES campaigns (id),
    sequence_no INTEGER REFERENCES sequences (no),
    step INTEGER,
    audience_no INTEGER NOT NULL,
    name TEXT NOT NULL,
    plan TEXT NOT NULL,                     -- JSON
    priority INTEGER NOT NULL,
    sticky INTEGER NOT NULL,                -- devices by a hash of the address; else in turn
    pool_size INTEGER NOT NULL CHECK (pool_size > 0),
    expires_at INTEGER,
    active INTEGER NOT NULL,                -- its messages may be sent now
    expanded INTEGER NOT NULL,              -- every contact has become a message
    cursor INTEGER NOT NULL,                -- contacts up to this number have become messages
    last INTEGER NOT NULL,                  -- the last number of its audience
    closed_as INTEGER,                      -- cancelled or expired (message codes): what its pending messages become
    closing INTEGER NOT NULL DEFAULT 0,     -- closed, and may still have open messages
    close_cursor INTEGER NOT NULL DEFAULT 0,-- pending messages up to this id have been closed
    started_at INTEGER NOT NULL,
    finished_at INTEGER,
    CHECK ((campaign_id IS NULL) = (sequence_no IS NOT NULL)),
    UNIQUE (sequence_no, step)
) STRICT;
CREATE INDEX runs_open ON runs (key) WHERE finished_at IS NULL;
CREATE INDEX runs_closing ON runs (key) WHERE closing = 1;
CREATE INDEX runs_by_campaign ON runs (campaign_id);
CREATE INDEX runs_by_audience ON runs (audience_no);

CREATE TABLE run_devices (
    run_key INTEGER NOT NULL REFERENCES runs (key),
    pos INTEGER NOT NULL,                   -- from 0
    device_no INTEGER NOT NULL,
    PRIMARY KEY (run_key, pos)
) STRICT, WITHOUT ROWID;

-- Exact counts of a run's messages, kept in the transaction that changes a message. The other store has
-- several rows (shards) per run; here one shard is enough.
CREATE TABLE run_counts (
    run_key INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    total INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0,
    read INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    unknown INTEGER NOT NULL DEFAULT 0,
    suppressed INTEGER NOT NULL DEFAULT 0,
    expired INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run_key, shard)
) STRICT, WITHOUT ROWID;

-- The hot table. Columns stand in the order of the other store.
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,                 -- run key << 32 | number of the contact
    due_at INTEGER NOT NULL,                -- from when on it may go: the start of its wait
    device_no INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,     -- times taken
    status INTEGER NOT NULL,                -- message.rs, `code`
    failures INTEGER NOT NULL DEFAULT 0,    -- attempts that count
    template_no INTEGER,                    -- plugin versions of the last attempt
    delay_no INTEGER,
    sender_no INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    provider_id TEXT,
    reason_code TEXT,
    reason_detail TEXT
) STRICT;
-- What becomes ready by the passing of time.
CREATE INDEX messages_deferred ON messages (due_at) WHERE status = 1;
-- A device's share of them: for moving it to another device.
CREATE INDEX messages_deferred_by_device ON messages (device_no, id) WHERE status = 1;
-- The two lists that people look at and act on.
CREATE INDEX messages_in_trouble ON messages (status, id) WHERE status IN (6, 7);

-- What a device's queue is filled from: every ready message, and for a while those that were. The end of an attempt does
-- not take its message out, because each would write a page of its own; they are swept by the device, many at a time.
CREATE TABLE waiting (
    device_no INTEGER NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (device_no, id)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER messages_made_ready AFTER INSERT ON messages WHEN new.status = 0 BEGIN
    INSERT INTO waiting (device_no, id) VALUES (new.device_no, new.id) ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER messages_ready_again AFTER UPDATE OF status, device_no ON messages WHEN new.status = 0 BEGIN
    INSERT INTO waiting (device_no, id) VALUES (new.device_no, new.id) ON CONFLICT DO NOTHING;
END;

-- What each device is sending right now. A message that is being sent stays pending in `messages` and is named here, so
-- that beginning it changes one small row and no index. One row per device is also the guard of last resort: a device
-- sends one message at a time, whatever happened to leases and queues.
-- The row of a device that sends nothing stays, for the token, until `device_state` holds as young a one: so devices that
-- wait long between two messages have no row here, and the table stays as small as what goes on at a time, a few
-- pages that every turn writes anyway.
CREATE TABLE in_flight (
    device_no INTEGER PRIMARY KEY,
    attempt INTEGER NOT NULL,
    message_id INTEGER,                     -- NULL: nothing
    token INTEGER NOT NULL,                 -- fencing token of the newest lease under which a message was begun
    started_at INTEGER NOT NULL,
    host_id BLOB,                           -- the server that began it
    template_no INTEGER,                    -- plugin versions of the attempt
    delay_no INTEGER,
    sender_no INTEGER
) STRICT;

-- Attempts that did not end in a clean send.
CREATE TABLE attempts (
    message_id INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    device_no INTEGER NOT NULL,
    template_no INTEGER,
    delay_no INTEGER,
    sender_no INTEGER,
    outcome TEXT NOT NULL,
    reason_code TEXT,
    reason_detail TEXT,
    provider_id TEXT,
    PRIMARY KEY (message_id, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE suppressions (
    address TEXT NOT NULL,
    channel TEXT NOT NULL,                  -- '': every channel
    reason TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (address, channel)
) STRICT, WITHOUT ROWID;
CREATE INDEX suppressions_by_age ON suppressions (created_at, address, channel);

-- Every opt-out and opt-in, in order; rows are never changed.
CREATE TABLE consent_ledger (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    address TEXT NOT NULL,
    channel TEXT NOT NULL,
    event TEXT NOT NULL CHECK (event IN ('opt-in', 'opt-out')),
    reason TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX consent_ledger_by_address ON consent_ledger (address, no);

CREATE TABLE enrolments (
    sequence_no INTEGER NOT NULL REFERENCES sequences (no),
    contact_no INTEGER NOT NULL,            -- in the sequence's audience
    status INTEGER NOT NULL,                -- sequence.rs, `EnrolmentStatus::code`
    step INTEGER NOT NULL,                  -- from 0
    due_at INTEGER NOT NULL,                -- of the current step
    exit_reason TEXT,
    enrolled_at INTEGER NOT NULL,
    PRIMARY KEY (sequence_no, contact_no)
) STRICT, WITHOUT ROWID;
-- By sequence first: those of a paused sequence must not stand before those of a running one.
CREATE INDEX enrolments_due ON enrolments (sequence_no, due_at) WHERE status = 0;
CREATE INDEX enrolments_by_status ON enrolments (sequence_no, status, contact_no);
