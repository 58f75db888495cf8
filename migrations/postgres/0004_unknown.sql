-- Unknown outcomes are rare: an index on them costs nothing while messages are sent.

CREATE INDEX messages_unknown_by_device ON messages (device_no, id) WHERE status = 7;
-- What a campaign's policy has done about them so far, until they are resolved.
CREATE TABLE lookups (
    message_id BIGINT PRIMARY KEY,
    next_at BIGINT NOT NULL,                -- not before then again
    tries INT NOT NULL
);
