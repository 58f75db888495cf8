//! The style sheet, the script and the icon: part of the binary, served under a URL that holds their hash, so that
//! a browser keeps them for good and a new version is fetched at once.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::id::Digest;

struct Asset {
    name: String,
    etag: String,
    content_type: &'static str,
    body: &'static str,
}

impl Asset {
    fn new(stem: &str, extension: &str, content_type: &'static str, body: &'static str) -> Self {
        let hash: String = Digest::of(body.as_bytes()).to_string().chars().take(16).collect();
        Self { name: format!("{stem}-{hash}.{extension}"), etag: format!("\"{hash}\""), content_type, body }
    }

    fn url(&self) -> String {
        format!("/ui/assets/{}", self.name)
    }
}

static CSS: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("ui", "css", "text/css; charset=utf-8", include_str!("../../assets/ui.css")));
static JS: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("ui", "js", "text/javascript; charset=utf-8", include_str!("../../assets/ui.js")));
static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_str!("../../assets/icon.svg")));

/// Where the style sheet is.
pub fn css_url() -> String {
    CSS.url()
}

/// Where the script is.
pub fn js_url() -> String {
    JS.url()
}

/// Where the icon is.
pub fn icon_url() -> String {
    ICON.url()
}

/// `GET /ui/assets/{name}`.
pub(super) async fn serve(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(asset) = [&*CSS, &*JS, &*ICON].into_iter().find(|a| a.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let kept = [
        (header::ETAG, asset.etag.as_str()),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::CONTENT_TYPE, asset.content_type),
    ];
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    if known.is_some_and(|list| list.split(',').any(|tag| tag.trim().trim_start_matches("W/") == asset.etag)) {
        return (StatusCode::NOT_MODIFIED, kept).into_response();
    }
    (kept, asset.body).into_response()
}
