//! The overview: how fast the cluster sends, what waits, who works, and which campaigns are open.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;

use super::live::{SPAN, Sample};
use super::page::{self, Page};
use super::session::Session;
use super::{Answer, Failure, Shared, chart, format, go};

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    page: Page,
    sample: Arc<Sample>,
    rates: (f64, f64),
    line: String,
}

pub(super) async fn show(State(ui): State<Shared>, session: Session) -> Answer {
    let sections = page::sections(&session);
    match sections.first() {
        Some(("/ui/", _)) => {}
        // A token for one subject only lands on that subject.
        Some((other, _)) => return go(other),
        None => return Err(Failure::Forbidden("campaigns:read")),
    }
    let page = Page::new(session, "/ui/")?;
    let sample = ui.live.sample();
    let (rates, line) = (sample.rates(), sample.line());
    page::html(&OverviewPage { page, sample, rates, line })
}
