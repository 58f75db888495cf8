-- What providers report of messages later: delivered, read, failed after all; and the addresses that they report it to.

CREATE TABLE webhooks (
    id UUID PRIMARY KEY,
    key BYTEA NOT NULL UNIQUE,              -- sha256 of the key in its address
    plugin TEXT COLLATE "C" NOT NULL,
    spec TEXT NOT NULL,                     -- JSON
    created_at BIGINT NOT NULL
);
CREATE INDEX webhooks_by_plugin ON webhooks (plugin, id);

-- One row for each message of which a provider may report: written with its end, and only while its sender has a webhook, so
-- that nobody else's messages pay for these indexes.
CREATE TABLE receipts (
    message_id BIGINT PRIMARY KEY,
    key BIGINT NOT NULL,                    -- half a hash of the plugin's name and the provider's id
    address_key BIGINT NOT NULL,            -- the same of the plugin's name and the recipient's address
    delivered_at BIGINT,
    read_at BIGINT,
    failed_at BIGINT,
    state SMALLINT NOT NULL DEFAULT 0,      -- receipt.rs, `ReceiptState::code`
    reason_code TEXT,
    reason_detail TEXT
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
CREATE INDEX receipts_by_key ON receipts (key);
CREATE INDEX receipts_by_address ON receipts (address_key);

-- Reports that came before the end of their message was written, for some minutes; a bounded number.
CREATE TABLE early_receipts (
    key BIGINT NOT NULL,
    state SMALLINT NOT NULL,
    at BIGINT NOT NULL,
    arrived_at BIGINT NOT NULL,
    reason_code TEXT,
    reason_detail TEXT,
    PRIMARY KEY (key, state)
);
CREATE INDEX early_receipts_by_age ON early_receipts (arrived_at);

-- How many of a run's messages were reported as what, kept in the transaction that changes a receipt.
CREATE TABLE receipt_counts (
    run_key INT NOT NULL,
    shard SMALLINT NOT NULL,
    delivered BIGINT NOT NULL DEFAULT 0,
    read BIGINT NOT NULL DEFAULT 0,
    failed BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (run_key, shard)
) WITH (fillfactor = 30, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
