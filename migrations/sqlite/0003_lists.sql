-- Lists by status. Every end other than a plain send is rare, or is reached all at once when a campaign is closed: an index
-- on those costs nothing while messages are sent.

DROP INDEX messages_in_trouble;
CREATE INDEX messages_not_sent ON messages (status, id) WHERE status >= 6;
