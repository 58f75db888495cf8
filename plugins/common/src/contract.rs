//! The contract's own words, as one set of types for all senders: what is made here fits each of them.

pub use carillon_plugin::{sending, types};
