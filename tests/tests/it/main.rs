//! The integration tests: one binary, so that they are linked once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod api;
mod chaos;
mod cli;
mod flow;
mod logs;
mod models;
mod plans;
mod plugin_contract;
mod queue_contract;
mod retention;
mod rooms;
mod store_contract;
