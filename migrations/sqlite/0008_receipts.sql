-- What providers report of messages later: delivered, read, failed after all; and the addresses that they report it to.

CREATE TABLE webhooks (
    id BLOB NOT NULL PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,               -- sha256 of the key in its address
    plugin TEXT NOT NULL,
    spec TEXT NOT NULL,                     -- JSON
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX webhooks_by_plugin ON webhooks (plugin, id);

-- One row for each message of which a provider may report: written with its end, and only while its sender has a webhook, so
-- that nobody else's messages pay for these indexes.
CREATE TABLE receipts (
    message_id INTEGER PRIMARY KEY,
    key INTEGER NOT NULL,                   -- half a hash of the plugin's name and the provider's id
    address_key INTEGER NOT NULL,           -- the same of the plugin's name and the recipient's address
    delivered_at INTEGER,
    read_at INTEGER,
    failed_at INTEGER,
    state INTEGER NOT NULL DEFAULT 0,       -- receipt.rs, `ReceiptState::code`
    reason_code TEXT,
    reason_detail TEXT
) STRICT;
CREATE INDEX receipts_by_key ON receipts (key);
CREATE INDEX receipts_by_address ON receipts (address_key);

-- Reports that came before the end of their message was written, for some minutes; a bounded number.
CREATE TABLE early_receipts (
    key INTEGER NOT NULL,
    state INTEGER NOT NULL,
    at INTEGER NOT NULL,
    arrived_at INTEGER NOT NULL,
    reason_code TEXT,
    reason_detail TEXT,
    PRIMARY KEY (key, state)
) STRICT, WITHOUT ROWID;
CREATE INDEX early_receipts_by_age ON early_receipts (arrived_at);

-- How many of a run's messages were reported as what, kept in the transaction that changes a receipt.
CREATE TABLE receipt_counts (
    run_key INTEGER NOT NULL PRIMARY KEY,
    delivered INTEGER NOT NULL DEFAULT 0,
    read INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0
) STRICT;
