-- Messages of campaigns that finished long ago may be removed (`--keep-finished-days`); campaign, run and counts stay.

ALTER TABLE campaigns ADD COLUMN messages_pruned_at BIGINT; -- since when its list of messages is no longer whole
ALTER TABLE runs
    ADD COLUMN prune_cursor INT NOT NULL DEFAULT 0,      -- messages of contacts up to this number have been removed
    ADD COLUMN pruned BOOLEAN NOT NULL DEFAULT FALSE;    -- all have
-- A run that retention is done with is never looked at again.
CREATE INDEX runs_to_prune ON runs (finished_at) WHERE campaign_id IS NOT NULL AND NOT pruned;
