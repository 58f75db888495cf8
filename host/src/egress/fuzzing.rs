//! Requests as plugins write them: whatever is asked for, what leaves is one request to the host that was judged.

use std::time::Duration;

use bytes::Bytes;

use super::policy::{Allowed, EgressPolicy, Secret};
use super::request::{Rules, Target, build, check};
use super::{Body, EgressRequest, address};
use crate::grants::{Grants, HostPattern, Licence, canonical_host};

/// In letters of both sizes: names of hosts and headers are written in small ones.
const VALUE: &str = "Hush-Hush-Hush";

/// Method, URL and headers, a line each, then an empty line and the body.
pub fn request(bytes: &[u8]) {
    // A plugin that guesses a secret has it already.
    if shows(bytes) {
        return;
    }
    let (head, body) = match bytes.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at + 2..).unwrap_or_default()),
        None => (bytes, Default::default()),
    };
    let Ok(head) = std::str::from_utf8(head) else { return };
    let mut lines = head.split('\n');
    let (method, url) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    // A tab stands for a line break, so that a header can try to be two.
    let headers = lines.filter_map(|line| line.split_once(':')).map(|(n, v)| (n.to_owned(), v.replace('\t', "\r\n")));
    let request = EgressRequest {
        method: method.to_owned(),
        url: url.to_owned(),
        headers: headers.collect(),
        body: Body::Bytes(Bytes::copy_from_slice(body)),
        timeout: Duration::from_secs(1),
    };
    let secrets = [format!("KEY={VALUE}@api.example.com"), format!("KEY={VALUE}@gateway.lan:8080")];
    let policy = EgressPolicy {
        allow: ["gateway.lan:8080".parse::<Allowed>()].into_iter().flatten().collect(),
        secrets: secrets.iter().filter_map(|s| Secret::parse(s).ok()).collect(),
        ..EgressPolicy::default()
    };
    assert!(policy.allow.len() == 1 && policy.secrets.len() == 2);
    // One that may do all, and one that may post to one host and has no secret.
    let (all, few) = (Licence::unbounded("all"), Licence::new("few"));
    let (hosts, methods) = (vec!["gateway.lan:8080".to_owned()], vec!["POST".to_owned()]);
    few.set(&Grants { hosts, methods, ..Grants::default() });
    let permits = few.permits();
    let rules = Rules { policy: &policy, stored: &[], permits: &permits, plugin: few.plugin() };
    if let Ok(Target::Http(target)) = check(rules, &request) {
        assert_eq!(target.host, "gateway.lan");
        if let Ok(built) = build(rules, request.clone(), target) {
            assert!(built.method() == "POST" && built.uri().port_u16() == Some(8080));
            assert!(!shows(built.uri().to_string().as_bytes()));
            assert!(built.headers().values().all(|value| !shows(value.as_bytes())));
        }
    }
    let permits = all.permits();
    let rules = Rules { permits: &permits, plugin: all.plugin(), ..rules };
    let target = match check(rules, &request) {
        Ok(Target::Http(target)) => target,
        Ok(Target::Simulator) => return,
        Err(refused) => return assert!(!refused.to_string().contains(VALUE)),
    };
    let host = target.host.clone();
    let built = match build(rules, request, target) {
        Ok(built) => built,
        Err(refused) => return assert!(!refused.to_string().contains(VALUE)),
    };

    // The client connects to what the URI says: it must be what was judged, however it is read.
    let uri = built.uri();
    let read = url_host(&uri.to_string());
    assert_eq!(uri.host().and_then(canonical_host).as_deref(), Some(host.as_str()));
    assert_eq!(read.as_deref().and_then(canonical_host).as_deref(), Some(host.as_str()), "{uri}");
    assert!(uri.path().starts_with('/'));
    if let Ok(ip) = host.parse() {
        address::refusal(ip);
    }
    let theirs = (uri.scheme_str() == Some("https") && host == "api.example.com")
        || (host == "gateway.lan" && uri.port_u16() == Some(8080));
    // The value has only letters that stand in a path as they are.
    assert!(theirs || !shows(uri.path().as_bytes()));
    assert!(!uri.query().is_some_and(|query| shows(query.as_bytes())));
    for (name, value) in built.headers() {
        assert!(!matches!(name.as_str(), "host" | "connection" | "transfer-encoding" | "upgrade" | "te"));
        assert!(value.as_bytes().iter().all(|b| *b == b'\t' || (*b >= b' ' && *b != 0x7f)));
        assert!(theirs || !shows(value.as_bytes()));
    }
    assert!(built.headers().get_all("content-length").iter().all(|length| length == "0"));
}

fn shows(bytes: &[u8]) -> bool {
    bytes.windows(VALUE.len()).any(|part| part == VALUE.as_bytes())
}

/// The host of a URL as other programs read it: between the slashes and the next of `/?#`, after the last `@`, before the port.
fn url_host(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let host = authority.rsplit('@').next()?;
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().map(|ip| format!("[{ip}]")),
        None => host.split(':').next().map(str::to_owned),
    }
}

/// A grant or a secret as an operator writes it: an error shows no value.
pub(crate) fn grants(text: &str) {
    let _entry = text.parse::<Allowed>();
    if let Err(error) = Secret::parse(&format!("NAME={VALUE}{text}")) {
        assert!(!error.to_string().contains(VALUE));
    }
    if let Some(host) = canonical_host(text) {
        assert!(!host.is_empty() && host.len() <= 253);
    }
    if let Ok(pattern) = text.parse::<HostPattern>() {
        assert_eq!(pattern.to_string().parse(), Ok(pattern));
    }
}
