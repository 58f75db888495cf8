-- Versions that are tried before they are trusted.

ALTER TABLE plugin_versions ADD COLUMN quarantined_at INTEGER;    -- since when it must not be used
ALTER TABLE plugin_versions ADD COLUMN quarantine_reason TEXT;

-- Which version of a plugin was the active (stable) one, from when on.
CREATE TABLE plugin_history (
    name TEXT NOT NULL,
    step INTEGER NOT NULL,                      -- from 1
    version_no INTEGER NOT NULL REFERENCES plugin_versions (no),
    back INTEGER,                               -- the step that a roll-back goes to
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (name, step)
) STRICT;
INSERT INTO plugin_history (name, step, version_no, back, at, actor, reason)
SELECT p.name, 1, v.no, NULL, v.uploaded_at, 'system', 'it was active before this history began'
FROM plugins p JOIN plugin_versions v ON v.no = p.active_no;

CREATE TABLE rollouts (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL REFERENCES plugins (name),
    candidate_no INTEGER NOT NULL REFERENCES plugin_versions (no),
    stable_no INTEGER NOT NULL REFERENCES plugin_versions (no),
    spec TEXT NOT NULL,                     -- JSON
    status TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    started_by TEXT NOT NULL,
    ended_at INTEGER,
    ended_by TEXT,
    reason TEXT
) STRICT;
-- One at a time for each plugin.
CREATE UNIQUE INDEX rollouts_running ON rollouts (name) WHERE status = 'running';
CREATE INDEX rollouts_by_name ON rollouts (name, no);

-- What each server has seen of a rollout: totals, which it overwrites.
CREATE TABLE rollout_counts (
    rollout_no INTEGER NOT NULL REFERENCES rollouts (no),
    host_id BLOB NOT NULL,
    counts TEXT NOT NULL,                   -- JSON
    PRIMARY KEY (rollout_no, host_id)
) STRICT, WITHOUT ROWID;

-- The newest faults and differences.
CREATE TABLE rollout_findings (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    rollout_no INTEGER NOT NULL REFERENCES rollouts (no),
    at INTEGER NOT NULL,
    message_id INTEGER NOT NULL,
    device TEXT NOT NULL,
    field TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX rollout_findings_by_rollout ON rollout_findings (rollout_no, no);
