-- Versions of plugins can be deleted. The row stays, without the component: messages, rollouts, cases and the history name it. So a
-- name and version must be unique among those that are there only.

ALTER TABLE plugin_versions
    ADD COLUMN deleted_at BIGINT,           -- from then on its bytes are empty
    DROP CONSTRAINT plugin_versions_name_version_key;
CREATE UNIQUE INDEX plugin_versions_by_name ON plugin_versions (name, version) WHERE deleted_at IS NULL;
