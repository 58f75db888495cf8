//! What every page has: who is logged in, the navigation, the proof for its forms, and how values are written in HTML.

use askama::Template;
use axum::response::{Html, IntoResponse, Response};

use super::session::Session;
use super::{Failure, format};
use crate::campaign::CampaignStatus;
use crate::clock::Time;
use crate::message::MessageStatus;
use crate::sequence::{EnrolmentStatus, SequenceStatus};

/// The sections of the dashboard, in their order: address, name, and the scope that may read them.
pub const NAVIGATION: [(&str, &str, &str); 9] = [
    ("/ui/", "Overview", "campaigns:read"),
    ("/ui/campaigns", "Campaigns", "campaigns:read"),
    ("/ui/sequences", "Sequences", "campaigns:read"),
    ("/ui/messages", "Unknown", "campaigns:read"),
    ("/ui/devices", "Devices", "devices:read"),
    ("/ui/audiences", "Audiences", "audiences:read"),
    ("/ui/plugins", "Plugins", "plugins:read"),
    ("/ui/suppressions", "Suppressions", "suppressions:read"),
    ("/ui/servers", "Servers", "campaigns:read"),
];

/// What a page may say about the step before it. The address names one of these; it never carries a text.
const NOTICES: [(&str, &str); 27] = [
    ("launched", "The campaign is launched."),
    ("paused", "Paused. Messages in flight are finished; nothing new is sent."),
    ("resumed", "Resumed."),
    ("cancelled", "The campaign is cancelled. Messages that were not sent will not be sent."),
    ("retried", "Failed messages are waiting to be sent again."),
    ("resolved", "Resolved. The message's history says who said so."),
    ("proved", "The provider could tell: the message is resolved."),
    ("unproved", "The provider could not tell: the message stays unknown."),
    ("created", "The campaign is made, as a draft. Launch it when it is right."),
    ("activated", "Activated. The next message uses this version, on every server."),
    ("rolled-back", "Rolled back. The next message uses the version before, on every server."),
    ("granted", "Granted. The next request has it, on every server within a second."),
    ("webhook-deleted", "Deleted. Its address is unknown, on every server within a second."),
    ("promoted", "Promoted. The next message uses this version, on every server."),
    ("aborted", "The rollout has ended. Every device uses the stable version."),
    ("enabled", "The device is enabled."),
    ("disabled", "The device is disabled. Its waiting messages move to other devices of their pools."),
    ("lifted", "The hold is lifted."),
    ("suppressed", "The address is on the suppression list."),
    ("listed", "The address was on the suppression list already."),
    ("removed", "The address is off the suppression list."),
    ("absent", "The address was not on the suppression list."),
    ("started", "The sequence is running."),
    ("enrolled", "The contact is enrolled."),
    ("already", "The contact was enrolled before: each contact passes through a sequence once."),
    ("not-enrolled", "The contact is suppressed and was not enrolled."),
    ("exited", "The contact has left the sequence."),
];

/// The sections that a session may read: address and name.
pub(super) fn sections(session: &Session) -> Vec<(&'static str, &'static str)> {
    NAVIGATION.into_iter().filter(|(_, _, scope)| session.may(scope)).map(|(path, name, _)| (path, name)).collect()
}

/// The notice that a query asks for, as in `done=paused`.
pub(super) fn notice(query: &str) -> Option<&'static str> {
    let code = query.split('&').find_map(|pair| pair.strip_prefix("done="))?;
    NOTICES.iter().find(|(c, _)| *c == code).map(|(_, text)| *text)
}

/// A text as a part of a URL.
pub fn url_part(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The frame of a page.
pub struct Page {
    session: Session,
    section: &'static str,
}

impl Page {
    /// A page of a section of [`NAVIGATION`], if the token may read it.
    pub(super) fn new(session: Session, section: &'static str) -> Result<Self, Failure> {
        if let Some((_, _, scope)) = NAVIGATION.into_iter().find(|(path, _, _)| *path == section) {
            session.require(scope)?;
        }
        Ok(Self { session, section })
    }

    /// The sections that the token may read: address and name.
    pub fn sections(&self) -> Vec<(&'static str, &'static str)> {
        sections(&self.session)
    }

    /// The name of the token.
    pub fn user(&self) -> &str {
        &self.session.token.name
    }

    /// The proof that forms carry.
    pub fn csrf(&self) -> &str {
        &self.session.csrf
    }

    /// What the step before wants said.
    pub fn notice(&self) -> Option<&'static str> {
        self.session.notice
    }

    /// Whether this page belongs to a section.
    pub fn is_under(&self, section: &str) -> bool {
        self.section == section
    }

    /// Whether the token may do what the scope names: controls that would be refused are not shown.
    pub fn may(&self, scope: &str) -> bool {
        self.session.may(scope)
    }

    /// When the page was asked for.
    pub fn now(&self) -> Time {
        self.session.now
    }

    /// HTML: a time relative to now, in full where the pointer rests.
    pub fn time(&self, time: &Time) -> String {
        let (full, short) = (format::utc(*time), format::relative(*time, self.session.now));
        format!("<time datetime=\"{time}\" title=\"{full}\" class=\"nowrap\">{short}</time>")
    }

    /// HTML: a time in full, and relative to now.
    pub fn full_time(&self, time: &Time) -> String {
        let (full, short) = (format::utc(*time), format::relative(*time, self.session.now));
        format!("<time datetime=\"{time}\">{full}</time> <span class=\"quiet\">({short})</span>")
    }
}

/// A page as an answer.
pub(super) fn html(template: &impl Template) -> Result<Response, Failure> {
    match template.render() {
        Ok(text) => Ok(Html(text).into_response()),
        Err(error) => Err(Failure::Internal(anyhow::Error::new(error).context("a page could not be rendered"))),
    }
}

/// The colour of a campaign's badge.
pub fn campaign_colour(status: CampaignStatus) -> &'static str {
    match status {
        CampaignStatus::Draft | CampaignStatus::Cancelled => "",
        CampaignStatus::Scheduled | CampaignStatus::Expanding | CampaignStatus::Running => "busy",
        CampaignStatus::Paused | CampaignStatus::Expired => "warn",
        CampaignStatus::Completed => "ok",
    }
}

/// The colour of a message's badge.
pub fn message_colour(status: MessageStatus) -> &'static str {
    match status {
        MessageStatus::Processing => "busy",
        MessageStatus::Sent | MessageStatus::Delivered | MessageStatus::Read => "ok",
        MessageStatus::Failed => "bad",
        MessageStatus::Unknown | MessageStatus::Expired => "warn",
        MessageStatus::Pending | MessageStatus::Suppressed | MessageStatus::Cancelled => "",
    }
}

/// The colour of a sequence's badge.
pub fn sequence_colour(status: SequenceStatus) -> &'static str {
    match status {
        SequenceStatus::Draft => "",
        SequenceStatus::Running => "busy",
        SequenceStatus::Paused => "warn",
    }
}

/// The colour of an enrolment's badge.
pub fn enrolment_colour(status: EnrolmentStatus) -> &'static str {
    match status {
        EnrolmentStatus::Waiting => "",
        EnrolmentStatus::InStep => "busy",
        EnrolmentStatus::Completed => "ok",
        EnrolmentStatus::Exited => "warn",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_one_of_ours() {
        assert_eq!(notice("a=1&done=resumed"), Some("Resumed."));
        assert_eq!(notice("done=<b>"), None);
    }

    #[test]
    fn url_parts_are_escaped() {
        assert_eq!(url_part("+39 06/é"), "%2B39%2006%2F%C3%A9");
    }
}
