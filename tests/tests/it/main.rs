//! The integration tests: one binary, so that they are linked once.

mod cli;
mod flow;
mod plugin_contract;
mod queue_contract;
mod rooms;
mod store_contract;
