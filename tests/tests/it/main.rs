//! The integration tests: one binary, so that they are linked once.

mod queue_contract;
