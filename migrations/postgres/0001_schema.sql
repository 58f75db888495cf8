-- Times are milliseconds since 1970-01-01T00:00:00Z. Text that is compared or ordered uses the "C" collation, so that
-- both stores order alike, and an upgrade of the operating system's locales cannot break an index.

-- What changed somewhere in the cluster: one counter per subject.
CREATE TABLE revisions (
    topic TEXT PRIMARY KEY,
    n BIGINT NOT NULL
) WITH (fillfactor = 50);
INSERT INTO revisions (topic, n) VALUES ('runs', 0), ('devices', 0), ('plugins', 0), ('suppressions', 0), ('tokens', 0);

CREATE TABLE hosts (
    id UUID PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    roles TEXT NOT NULL,
    active_workers INT NOT NULL,
    started_at BIGINT NOT NULL,
    heartbeat_at BIGINT NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE tokens (
    id UUID PRIMARY KEY,
    secret BYTEA NOT NULL UNIQUE,           -- sha256 of the secret
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,                   -- JSON array
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE idempotency_keys (
    owner UUID NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    request BYTEA NOT NULL,
    status INT NOT NULL,                    -- 0: the first call is still running
    body TEXT NOT NULL,
    claimed_at BIGINT NOT NULL,
    PRIMARY KEY (owner, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (claimed_at);

CREATE TABLE audit_log (
    no BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL
);

CREATE TABLE devices (
    no INT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL UNIQUE,
    channel TEXT COLLATE "C" NOT NULL,
    account TEXT COLLATE "C",
    spec TEXT NOT NULL,                     -- JSON of the device's specification
    held TEXT,                              -- why it is on hold
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT                       -- the row stays: messages show its id
);
CREATE INDEX devices_by_account ON devices (account) WHERE account IS NOT NULL;
CREATE INDEX devices_by_change ON devices (updated_at);

CREATE TABLE device_tags (
    tag TEXT COLLATE "C" NOT NULL,
    device_no INT NOT NULL REFERENCES devices (no),
    PRIMARY KEY (tag, device_no)
);
CREATE INDEX device_tags_by_device ON device_tags (device_no);

-- What a device's limiter remembers, for when the queue has lost it.
CREATE TABLE device_state (
    device_no INT PRIMARY KEY,
    next_at BIGINT NOT NULL,
    token BIGINT NOT NULL,                  -- fencing token of the lease under which it was computed
    pace TEXT NOT NULL                      -- JSON
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- Versions of audiences. state: 0 being uploaded, 1 current, 2 replaced or thrown away, 3 contacts of a sequence.
CREATE TABLE audiences (
    no INT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    state SMALLINT NOT NULL,
    columns TEXT NOT NULL,                  -- JSON array of names
    contacts INT NOT NULL DEFAULT 0,
    last INT NOT NULL DEFAULT 0,            -- the last number used
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX audiences_current ON audiences (name) WHERE state = 1;
CREATE INDEX audiences_to_prune ON audiences (no) WHERE state IN (0, 2);

CREATE TABLE contacts (
    audience_no INT NOT NULL,
    no INT NOT NULL,                        -- from 1
    address TEXT COLLATE "C" NOT NULL,
    locale TEXT,
    zone TEXT,
    variables TEXT NOT NULL,                -- JSON array of [name, value]
    PRIMARY KEY (audience_no, no)
);
CREATE UNIQUE INDEX contacts_by_address ON contacts (audience_no, address);

CREATE TABLE plugin_versions (
    no INT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    digest BYTEA NOT NULL,
    size BIGINT NOT NULL,
    info TEXT NOT NULL,                     -- JSON
    imports TEXT NOT NULL,                  -- JSON array
    uploaded_at BIGINT NOT NULL,
    bytes BYTEA NOT NULL,
    UNIQUE (name, version)
);
-- A component is compressed badly and read whole.
ALTER TABLE plugin_versions ALTER COLUMN bytes SET STORAGE EXTERNAL;

CREATE TABLE plugins (
    name TEXT COLLATE "C" PRIMARY KEY,
    kind TEXT NOT NULL,
    active_no INT REFERENCES plugin_versions (no)
);

CREATE TABLE campaigns (
    id UUID PRIMARY KEY,                    -- version 7: sorts by age
    spec TEXT NOT NULL,                     -- JSON
    status TEXT COLLATE "C" NOT NULL,
    paused_reason TEXT,
    run_key INT,                            -- its newest run
    start_at BIGINT,                        -- from the specification
    expires_at BIGINT,                      -- from the specification
    created_at BIGINT NOT NULL,
    launched_at BIGINT,
    finished_at BIGINT
) WITH (fillfactor = 80);
CREATE INDEX campaigns_by_status ON campaigns (status, id);
CREATE INDEX campaigns_due ON campaigns (start_at) WHERE status = 'scheduled';
CREATE INDEX campaigns_past_expiry ON campaigns (expires_at)
    WHERE status IN ('scheduled', 'expanding', 'running', 'paused');

CREATE TABLE sequences (
    no INT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id UUID NOT NULL UNIQUE,
    spec TEXT NOT NULL,                     -- JSON
    status TEXT COLLATE "C" NOT NULL,
    paused_reason TEXT,
    audience_no INT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

-- A run holds the messages of one occurrence of a campaign, or of one step of a sequence.
CREATE TABLE runs (
    key INT PRIMARY KEY,
    campaign_id UUID REFERENCES campaigns (id),
    sequence_no INT REFERENCES sequences (no),
    step INT,
    audience_no INT NOT NULL,
    name TEXT NOT NULL,
    plan TEXT NOT NULL,                     -- JSON
    priority SMALLINT NOT NULL,
    sticky BOOLEAN NOT NULL,                -- devices by a hash of the address; else in turn
    pool_size INT NOT NULL CHECK (pool_size > 0),
    expires_at BIGINT,
    active BOOLEAN NOT NULL,                -- its messages may be sent now
    expanded BOOLEAN NOT NULL,              -- every contact has become a message
    cursor INT NOT NULL,                    -- contacts up to this number have become messages
    last INT NOT NULL,                      -- the last number of its audience
    closed_as SMALLINT,                     -- cancelled or expired (message codes): what its pending messages become
    closing BOOLEAN NOT NULL DEFAULT FALSE, -- closed, and may still have open messages
    close_cursor BIGINT NOT NULL DEFAULT 0, -- pending messages up to this id have been closed
    started_at BIGINT NOT NULL,
    finished_at BIGINT,
    CHECK ((campaign_id IS NULL) = (sequence_no IS NOT NULL)),
    UNIQUE (sequence_no, step)
) WITH (fillfactor = 70);
CREATE INDEX runs_open ON runs (key) WHERE finished_at IS NULL;
CREATE INDEX runs_closing ON runs (key) WHERE closing;
CREATE INDEX runs_by_campaign ON runs (campaign_id);
CREATE INDEX runs_by_audience ON runs (audience_no);

CREATE TABLE run_devices (
    run_key INT NOT NULL REFERENCES runs (key),
    pos INT NOT NULL,                       -- from 0
    device_no INT NOT NULL,
    PRIMARY KEY (run_key, pos)
);

-- Exact counts of a run's messages, kept in the transaction that changes a message. Several rows (shards) per run, so
-- that servers do not queue for one; a single shard may be negative.
CREATE TABLE run_counts (
    run_key INT NOT NULL,
    shard SMALLINT NOT NULL,
    total BIGINT NOT NULL DEFAULT 0,
    sent BIGINT NOT NULL DEFAULT 0,
    delivered BIGINT NOT NULL DEFAULT 0,
    read BIGINT NOT NULL DEFAULT 0,
    failed BIGINT NOT NULL DEFAULT 0,
    unknown BIGINT NOT NULL DEFAULT 0,
    suppressed BIGINT NOT NULL DEFAULT 0,
    expired BIGINT NOT NULL DEFAULT 0,
    cancelled BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (run_key, shard)
) WITH (fillfactor = 30, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);

-- The hot table. Columns stand in the order that wastes no padding.
CREATE TABLE messages (
    id BIGINT PRIMARY KEY,                  -- run key << 32 | number of the contact
    due_at BIGINT NOT NULL,                 -- from when on it may go: the start of its wait
    device_no INT NOT NULL,
    attempt INT NOT NULL DEFAULT 0,         -- times taken
    status SMALLINT NOT NULL,               -- message.rs, `code`
    failures SMALLINT NOT NULL DEFAULT 0,   -- attempts that count
    template_no INT,                        -- plugin versions of the last attempt
    delay_no INT,
    sender_no INT,
    started_at BIGINT,
    finished_at BIGINT,
    provider_id TEXT,
    reason_code TEXT,
    reason_detail TEXT
) WITH (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05,
        autovacuum_vacuum_cost_delay = 1);
-- What a device's queue is filled from.
CREATE INDEX messages_ready ON messages (device_no, id) WHERE status = 0;
-- What becomes ready by the passing of time.
CREATE INDEX messages_deferred ON messages (due_at) WHERE status = 1;
-- A device's share of them: for moving it to another device.
CREATE INDEX messages_deferred_by_device ON messages (device_no, id) WHERE status = 1;
-- The two lists that people look at and act on.
CREATE INDEX messages_in_trouble ON messages (status, id) WHERE status IN (6, 7);

-- What each device is sending right now: one row per device, made with the device. A message that is being sent stays
-- pending in `messages` and is named here, so that beginning it changes one small row, in place (HOT), and no index. One
-- row per device is also the guard of last resort: a device sends one message at a time, whatever happened to leases
-- and queues.
CREATE TABLE in_flight (
    device_no INT PRIMARY KEY,
    attempt INT NOT NULL DEFAULT 0,
    message_id BIGINT,                      -- NULL: nothing
    token BIGINT NOT NULL DEFAULT 0,        -- fencing token of the newest lease under which a message was begun
    started_at BIGINT NOT NULL DEFAULT 0,
    host_id UUID,                           -- the server that began it
    template_no INT,                        -- plugin versions of the attempt
    delay_no INT,
    sender_no INT
) WITH (fillfactor = 50);

-- Attempts that did not end in a clean send.
CREATE TABLE attempts (
    message_id BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    finished_at BIGINT NOT NULL,
    attempt INT NOT NULL,
    device_no INT NOT NULL,
    template_no INT,
    delay_no INT,
    sender_no INT,
    outcome TEXT NOT NULL,
    reason_code TEXT,
    reason_detail TEXT,
    provider_id TEXT,
    PRIMARY KEY (message_id, attempt)
);

CREATE TABLE suppressions (
    address TEXT COLLATE "C" NOT NULL,
    channel TEXT COLLATE "C" NOT NULL,      -- '': every channel
    reason TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (address, channel)
);
CREATE INDEX suppressions_by_age ON suppressions (created_at, address, channel);

-- Every opt-out and opt-in, in order; rows are never changed.
CREATE TABLE consent_ledger (
    no BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    address TEXT COLLATE "C" NOT NULL,
    channel TEXT COLLATE "C" NOT NULL,
    event TEXT NOT NULL CHECK (event IN ('opt-in', 'opt-out')),
    reason TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX consent_ledger_by_address ON consent_ledger (address, no);

CREATE TABLE enrolments (
    sequence_no INT NOT NULL REFERENCES sequences (no),
    contact_no INT NOT NULL,                -- in the sequence's audience
    status SMALLINT NOT NULL,               -- sequence.rs, `EnrolmentStatus::code`
    step INT NOT NULL,                      -- from 0
    due_at BIGINT NOT NULL,                 -- of the current step
    exit_reason TEXT,
    enrolled_at BIGINT NOT NULL,
    PRIMARY KEY (sequence_no, contact_no)
) WITH (fillfactor = 80);
-- By sequence first: those of a paused sequence must not stand before those of a running one.
CREATE INDEX enrolments_due ON enrolments (sequence_no, due_at) WHERE status = 0;
CREATE INDEX enrolments_by_status ON enrolments (sequence_no, status, contact_no);
