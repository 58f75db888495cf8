//! Everything that the integration tests share.

pub mod redis;
