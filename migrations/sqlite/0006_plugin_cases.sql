-- Calls of plugins that failed, and a sample of the others, to be run again. A bounded number for each version, and for some days.

CREATE TABLE plugin_cases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    version_no INTEGER NOT NULL REFERENCES plugin_versions (no),
    at INTEGER NOT NULL,
    call TEXT NOT NULL,
    code TEXT,                              -- how it failed; none for a sampled one
    detail TEXT,
    masked INTEGER NOT NULL,                -- whether personal data was taken out
    reproduces INTEGER NOT NULL,            -- whether the case came to the same when it was kept
    complete INTEGER NOT NULL,              -- whether nothing was cut
    body TEXT NOT NULL                      -- the case, JSON
) STRICT;
CREATE INDEX plugin_cases_of_version ON plugin_cases (version_no, id);
CREATE INDEX plugin_cases_by_age ON plugin_cases (at);
