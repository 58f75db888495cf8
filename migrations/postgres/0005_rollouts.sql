-- Versions that are tried before they are trusted.

ALTER TABLE plugin_versions
    ADD COLUMN quarantined_at BIGINT,       -- since when it must not be used
    ADD COLUMN quarantine_reason TEXT;

-- Which version of a plugin was the active (stable) one, from when on.
CREATE TABLE plugin_history (
    name TEXT COLLATE "C" NOT NULL,
    step INT NOT NULL,                      -- from 1
    version_no INT NOT NULL REFERENCES plugin_versions (no),
    back INT,                               -- the step that a roll-back goes to
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (name, step)
);
INSERT INTO plugin_history (name, step, version_no, back, at, actor, reason)
SELECT p.name, 1, v.no, NULL, v.uploaded_at, 'system', 'it was active before this history began'
FROM plugins p JOIN plugin_versions v ON v.no = p.active_no;

CREATE TABLE rollouts (
    no INT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL REFERENCES plugins (name),
    candidate_no INT NOT NULL REFERENCES plugin_versions (no),
    stable_no INT NOT NULL REFERENCES plugin_versions (no),
    spec TEXT NOT NULL,                     -- JSON
    status TEXT COLLATE "C" NOT NULL,
    started_at BIGINT NOT NULL,
    started_by TEXT NOT NULL,
    ended_at BIGINT,
    ended_by TEXT,
    reason TEXT
);
-- One at a time for each plugin.
CREATE UNIQUE INDEX rollouts_running ON rollouts (name) WHERE status = 'running';
CREATE INDEX rollouts_by_name ON rollouts (name, no);

-- What each server has seen of a rollout: totals, which it overwrites.
CREATE TABLE rollout_counts (
    rollout_no INT NOT NULL REFERENCES rollouts (no),
    host_id UUID NOT NULL,
    counts TEXT NOT NULL,                   -- JSON
    PRIMARY KEY (rollout_no, host_id)
) WITH (fillfactor = 50);

-- The newest faults and differences.
CREATE TABLE rollout_findings (
    no BIGINT GENERATED ALWAYS AS IDENTITY,
    rollout_no INT NOT NULL REFERENCES rollouts (no),
    at BIGINT NOT NULL,
    message_id BIGINT NOT NULL,
    device TEXT NOT NULL,
    field TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (rollout_no, no)
);
