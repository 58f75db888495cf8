//! Waiting for conditions instead of sleeping for luck.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not hold within `at_most`.
pub async fn eventually<F>(what: &str, at_most: Duration, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let end = Instant::now() + at_most;
    while !condition().await {
        assert!(Instant::now() < end, "not within {at_most:?}: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
