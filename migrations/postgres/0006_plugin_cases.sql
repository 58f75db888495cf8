-- Calls of plugins that failed, and a sample of the others, to be run again. A bounded number for each version, and for some days.

CREATE TABLE plugin_cases (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version_no INT NOT NULL REFERENCES plugin_versions (no),
    at BIGINT NOT NULL,
    call TEXT NOT NULL,
    code TEXT,                              -- how it failed; none for a sampled one
    detail TEXT,
    masked BOOLEAN NOT NULL,                -- whether personal data was taken out
    reproduces BOOLEAN NOT NULL,            -- whether the case came to the same when it was kept
    complete BOOLEAN NOT NULL,              -- whether nothing was cut
    body TEXT NOT NULL                      -- the case, JSON
);
CREATE INDEX plugin_cases_of_version ON plugin_cases (version_no, id);
CREATE INDEX plugin_cases_by_age ON plugin_cases (at);
