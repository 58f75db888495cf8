//! Everything that the integration tests share.
