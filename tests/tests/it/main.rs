//! The integration tests: one binary, so that they are linked once.

mod flow;
mod queue_contract;
mod rooms;
