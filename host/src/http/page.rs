//! Pages of listings: `?limit=&cursor=`, `{"items":[…],"next_cursor":…}`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::store::Page;

use super::problem::Problem;

/// Rows of a page when the caller does not say.
const DEFAULT_LIMIT: u32 = 100;
/// Rows of a page at most.
const MAX_LIMIT: u32 = 1_000;
/// The longest cursor.
const MAX_CURSOR: usize = 2_048;

/// A page of a listing.
#[derive(Debug, Serialize, ToSchema)]
pub struct Listing<T> {
    /// The rows.
    pub items: Vec<T>,
    /// What to pass as `cursor` for the next page; `null` when this is the last.
    pub next_cursor: Option<String>,
}

impl<T> Listing<T> {
    /// A page with its rows shown as `T`.
    pub(super) fn of<R: Into<T>, C: Serialize>(page: Page<R, C>) -> Self {
        let next_cursor = page.next.and_then(|c| serde_json::to_vec(&c).ok()).map(|c| URL_SAFE_NO_PAD.encode(c));
        Self { items: page.items.into_iter().map(Into::into).collect(), next_cursor }
    }
}

/// Which page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// Rows, 1 to 1000; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// The number of rows asked for.
pub(super) fn limit(limit: Option<u32>) -> Result<u32, Problem> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(Problem::bad_request("the query: limit").with_field("limit", format!("give 1 to {MAX_LIMIT}"))),
    }
}

/// Where the page begins.
pub(super) fn cursor<C: DeserializeOwned>(cursor: Option<&str>) -> Result<Option<C>, Problem> {
    let Some(text) = cursor.filter(|c| !c.is_empty()) else { return Ok(None) };
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|_| text.len() <= MAX_CURSOR)?;
        serde_json::from_slice(&bytes).ok()
    };
    let problem = "is not a cursor of this listing: pass next_cursor of the page before, unchanged";
    read().map(Some).ok_or_else(|| Problem::bad_request("the query: cursor").with_field("cursor", problem))
}
