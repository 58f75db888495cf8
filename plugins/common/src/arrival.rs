//! What senders have in common that read their provider's webhook: its body, its query, its times, and what it is answered.

use serde_json::Value;

use crate::contract::sending::{Body, HttpResponse};
use crate::contract::types::PluginError;

/// The body as JSON. What is none is not from the provider, who need not repeat it.
pub fn json(body: &Body) -> Result<Value, PluginError> {
    let read = match body {
        Body::Empty => return Err(PluginError::InvalidInput("the request has no body".into())),
        Body::Text(text) => serde_json::from_str(text),
        Body::Bytes(bytes) => serde_json::from_slice(bytes),
    };
    read.map_err(|e| {
        PluginError::InvalidInput(format!("the body is not JSON (line {}, column {})", e.line(), e.column()))
    })
}

/// An answer of text.
pub fn says(status: u32, text: impl Into<String>) -> HttpResponse {
    let text = text.into();
    let body = if text.is_empty() { Body::Empty } else { Body::Text(text) };
    HttpResponse { status, headers: vec![("content-type".into(), "text/plain".into())], body }
}

/// A text within a value; empty where there is none.
pub fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

/// A list within a value; empty where there is none.
pub fn list<'a>(value: &'a Value, at: &str) -> &'a [Value] {
    value.pointer(at).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Seconds since 1970, as a number or as text, in milliseconds; `now_ms` where there are none.
pub fn seconds_as_ms(value: Option<&Value>, now_ms: f64) -> f64 {
    let seconds = value.and_then(|value| value.as_f64().or_else(|| value.as_str()?.parse().ok()));
    seconds.filter(|seconds| seconds.is_finite()).map_or(now_ms, |seconds| seconds * 1000.0)
}

/// The milliseconds of a time as in RFC 3339: `2026-12-01T09:00:00.000+07:00`.
pub fn rfc3339_ms(text: &str) -> Option<f64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let sign = |at: usize| text.as_bytes().get(at).copied();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut fraction = 0.0;
    if let Some(digits) = rest.strip_prefix('.') {
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        fraction = digits.get(..end)?.parse::<f64>().ok()? / 10f64.powi(i32::try_from(end).ok()?);
        rest = digits.get(end..)?;
    }
    let offset_at = text.len() - rest.len();
    let offset = match sign(offset_at)? {
        b'Z' | b'z' if rest.len() == 1 => 0,
        plus_or_minus @ (b'+' | b'-') if rest.len() == 6 => {
            let minutes = number(offset_at + 1, offset_at + 3)? * 60 + number(offset_at + 4, offset_at + 6)?;
            if plus_or_minus == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    let seconds =
        carillon_plugin::sending::days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset * 60;
    Some((seconds as f64 + fraction) * 1000.0)
}

/// The value of a parameter in a query, decoded as forms are.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key)? == name).then(|| decoded(value))?
    })
}

fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_zones() {
        for (text, ms) in [
            ("2026-12-01T09:00:00Z", Some(1_796_115_600_000.0)),
            ("2026-12-01T16:00:00.250+07:00", Some(1_796_115_600_250.0)),
            ("2026-12-01T04:30:00-04:30", Some(1_796_115_600_000.0)),
            ("2026-13-01T09:00:00Z", None),
            ("2026-12-01T09:00:00", None),
            ("2026-12-01", None),
            ("", None),
        ] {
            assert_eq!(rfc3339_ms(text), ms, "{text}");
        }
        assert_eq!(seconds_as_ms(Some(&Value::from("1796115600")), 1.0), 1_796_115_600_000.0);
        assert_eq!(seconds_as_ms(Some(&Value::from(1_796_115_600)), 1.0), 1_796_115_600_000.0);
        assert_eq!(seconds_as_ms(Some(&Value::from("soon")), 1.0), 1.0);
    }

    #[test]
    fn a_parameter_is_decoded() {
        let query = "hub.mode=subscribe&hub.verify_token=a%20b%2Bc+d&empty&bad=%zz";
        assert_eq!(parameter(query, "hub.mode").as_deref(), Some("subscribe"));
        assert_eq!(parameter(query, "hub.verify_token").as_deref(), Some("a b+c d"));
        assert_eq!(parameter(query, "empty").as_deref(), Some(""));
        assert_eq!((parameter(query, "bad"), parameter(query, "other")), (None, None));
    }
}
