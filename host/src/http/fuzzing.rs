//! What callers of the API write: ids, cursors, tokens, cookies; and the bodies that describe campaigns, sequences and devices.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::page::{self, Listing};
use super::{auth, body, devices, idempotency};
use crate::campaign::{BadField, CampaignSpec};
use crate::clock::Time;
use crate::consent::NewSuppression;
use crate::device::DeviceSpec;
use crate::id::{CampaignId, DeviceId, Digest, HostId, MessageId, SequenceId, TokenId, WebhookId};
use crate::operations::audiences::Rejected;
use crate::operations::webhooks;
use crate::receipt::{AddressKey, spellings};
use crate::sequence::SequenceSpec;
use crate::store::Page;
use crate::ui::format::pretty_json;

/// A short text wherever the API takes one: what it is read as is written the same way again.
pub fn names(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        id::<CampaignId>(text);
        id::<SequenceId>(text);
        id::<HostId>(text);
        id::<TokenId>(text);
        id::<WebhookId>(text);
        id::<DeviceId>(text);
        id::<MessageId>(text);
        id::<Digest>(text);
        cursor::<String>(text);
        cursor::<(String, String)>(text);
        cursor::<i64>(text);
        cursor::<u32>(text);
        cursor::<CampaignId>(text);
        cursor::<DeviceId>(text);
        cursor::<MessageId>(text);
        for spelling in spellings(text) {
            assert_eq!(AddressKey::new("p", &spelling), AddressKey::new("p", text), "{spelling:?} is another address");
        }
        assert!(!webhooks::is_key(text) || text.len() == 48);
        crate::ui::fuzzing::next(text);
        crate::egress::fuzzing::grants(text);
    }
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let mut headers = HeaderMap::new();
    for name in [header::AUTHORIZATION, header::COOKIE, header::CONTENT_TYPE, idempotency::KEY] {
        headers.insert(name, value.clone());
    }
    assert!(auth::bearer(&headers).is_none_or(|secret| !secret.is_empty() && secret.len() <= auth::MAX_SECRET));
    assert!(!matches!(idempotency::key(&headers), Ok(Some(key)) if key.is_empty() || key.len() > 255));
    body::media_type(&headers);
    crate::ui::fuzzing::session(&headers);
}

fn id<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(id) = text.parse::<T>() {
        assert_eq!(id.to_string().parse::<T>().ok(), Some(id));
    }
}

fn cursor<T: DeserializeOwned + Serialize>(text: &str) {
    let Ok(Some(cursor)) = page::cursor::<T>(Some(text)) else { return };
    let written =
        |cursor| Listing::<Rejected>::of(Page { items: Vec::<Rejected>::new(), next: Some(cursor) }).next_cursor;
    let once = written(cursor);
    let again = page::cursor::<T>(once.as_deref()).ok().flatten();
    assert_eq!(again.and_then(written), once);
}

/// A body of JSON, read as everything that is created with one.
pub fn specs(bytes: &[u8]) {
    if let Some(spec) = read::<CampaignSpec>(bytes) {
        let problems = spec.problems();
        told(&problems);
        for attempt in [1, 2, 40, u32::MAX] {
            spec.retry.backoff(attempt, u32::MAX);
        }
        if let Some(window) = &spec.window {
            window.opens_in(Time::from_ms(1_796_115_600_000), None);
        }
        // The dashboard shows it with line breaks: the same JSON.
        let (config, pretty) = (spec.template.config.get(), pretty_json(spec.template.config.get()));
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
        assert_eq!(parse(config), parse(&pretty));
    }
    if let Some(spec) = read::<SequenceSpec>(bytes) {
        told(&spec.problems());
    }
    if let Some(spec) = read::<DeviceSpec>(bytes) {
        told(&spec.problems());
    }
    read::<Vec<NewSuppression>>(bytes);
    let bytes = Bytes::copy_from_slice(bytes);
    for devices in [devices::from_lines(&bytes), devices::from_csv(&bytes)].into_iter().flatten() {
        devices.iter().for_each(|device| told(&device.problems()));
    }
}

/// What was read is written so that it reads the same; what cannot be read is a problem of the caller.
fn read<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Option<T> {
    match body::parse::<T>(bytes) {
        Ok(spec) => {
            let text = |spec: &T| serde_json::to_string(spec).unwrap_or_default();
            let written = text(&spec);
            let again = body::parse::<T>(written.as_bytes());
            assert!(again.is_ok(), "{written}");
            assert_eq!(again.as_ref().map(text).unwrap_or_default(), written);
            Some(spec)
        }
        Err(problem) => {
            assert!(problem.status == 400 || problem.status == 422);
            None
        }
    }
}

fn told(problems: &[BadField]) {
    assert!(problems.iter().all(|p| !p.field.is_empty() && !p.problem.is_empty()));
}
