//! What browsers send: cookies, and the page to go to after a log-in.

use axum::http::HeaderMap;

use super::{safe_next, session};

/// Whatever a form asks for, the log-in leads to a page of ours.
pub(crate) fn next(text: &str) {
    let next = safe_next(text);
    assert!(next.starts_with("/ui/") && !next.contains("//") && !next.contains(['\\', '\r', '\n']));
}

/// Nobody is let in by a cookie that we did not write.
pub(crate) fn session(headers: &HeaderMap) {
    assert!(!session::opens(headers));
}
