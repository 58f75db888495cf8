//! The contract's own words, as one set of types for all senders: what is made here fits each of them.

pub use carillon_plugin::{health, sending, types};

/// The interface `health` as an export, beside the world of a sender's own bindings.
pub mod checks {
    pub use carillon_plugin::bindings::health::exports::carillon::plugin::health::Guest as Health;
    pub use carillon_plugin::bindings::health::*;
}
