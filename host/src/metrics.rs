//! What a server counts, for Prometheus and for its own pages.

use crate::operations::rates::Rates;

/// The counters of one process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// How fast runs send.
    pub rates: Rates,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        Self::default()
    }
}
