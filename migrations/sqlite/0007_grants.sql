-- What plugins may do, and secrets that are kept encrypted.

CREATE TABLE plugin_grants (
    name TEXT NOT NULL PRIMARY KEY REFERENCES plugins (name),
    grants TEXT NOT NULL,                   -- JSON
    granted_at INTEGER NOT NULL,
    granted_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;
-- Senders that are there already go on as before: they could reach every public host and have every secret.
INSERT INTO plugin_grants (name, grants, granted_at, granted_by)
SELECT name, '{"hosts":["*"],"methods":["*"],"secrets":["*"]}', CAST(strftime('%s', 'now') AS INTEGER) * 1000, 'migration'
FROM plugins WHERE kind = 'sender';

CREATE TABLE secrets (
    name TEXT NOT NULL PRIMARY KEY,
    host TEXT NOT NULL,                     -- where it may go, authenticated with the value
    key_id TEXT NOT NULL,
    nonce BLOB NOT NULL,
    ciphertext BLOB NOT NULL,               -- AES-256-GCM, with its tag
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO revisions (topic, n) VALUES ('secrets', 0);
