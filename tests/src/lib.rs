//! Everything that the integration tests share: servers that live as long as the test process, stores of each kind, and
//! small fleets to put into them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod chaos;
pub mod client;
pub mod fleet;
pub mod guests;
pub mod harm;
pub mod hooks;
pub mod meta;
pub mod neighbours;
pub mod plans;
pub mod postgres;
pub mod redis;
pub mod rust_guest;
pub mod server;
pub mod sink;
pub mod standin;
pub mod stores;
pub mod strangers;
pub mod wait;
