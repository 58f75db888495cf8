//! The integration tests: one binary, so that they are linked once.

mod cli;
mod flow;
mod queue_contract;
mod rooms;
