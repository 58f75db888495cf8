//! Everything that the integration tests share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod client;
pub mod redis;
pub mod server;
pub mod sink;
pub mod wait;
