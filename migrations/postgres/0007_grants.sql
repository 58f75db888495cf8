-- What plugins may do, and secrets that are kept encrypted.

CREATE TABLE plugin_grants (
    name TEXT COLLATE "C" PRIMARY KEY REFERENCES plugins (name),
    grants TEXT NOT NULL,                   -- JSON
    granted_at BIGINT NOT NULL,
    granted_by TEXT NOT NULL
);
-- Senders that are there already go on as before: they could reach every public host and have every secret.
INSERT INTO plugin_grants (name, grants, granted_at, granted_by)
SELECT name, '{"hosts":["*"],"methods":["*"],"secrets":["*"]}', (extract(epoch FROM now()) * 1000)::BIGINT, 'migration'
FROM plugins WHERE kind = 'sender';

CREATE TABLE secrets (
    name TEXT COLLATE "C" PRIMARY KEY,
    host TEXT NOT NULL,                     -- where it may go, authenticated with the value
    key_id TEXT NOT NULL,
    nonce BYTEA NOT NULL,
    ciphertext BYTEA NOT NULL,              -- AES-256-GCM, with its tag
    updated_at BIGINT NOT NULL
);
INSERT INTO revisions (topic, n) VALUES ('secrets', 0);
