-- Versions of plugins can be deleted. The row stays, without the component: messages, rollouts, cases and the history name it. So a
-- name and version must be unique among those that are there only, and SQLite changes no constraint of a table: it is made anew.

-- What names its rows finds them again before the end of the transaction.
PRAGMA defer_foreign_keys = on;

CREATE TABLE plugin_versions_before AS SELECT * FROM plugin_versions;
DROP TABLE plugin_versions;
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
    quarantined_at INTEGER,                 -- since when it must not be used
    quarantine_reason TEXT,
    deleted_at INTEGER,
    bytes BLOB NOT NULL                     -- empty once it is deleted
) STRICT;
INSERT INTO plugin_versions (no, name, version, kind, digest, size, info, imports, uploaded_at, quarantined_at,
                             quarantine_reason, bytes)
SELECT no, name, version, kind, digest, size, info, imports, uploaded_at, quarantined_at, quarantine_reason, bytes
FROM plugin_versions_before;
DROP TABLE plugin_versions_before;
CREATE UNIQUE INDEX plugin_versions_by_name ON plugin_versions (name, version) WHERE deleted_at IS NULL;
