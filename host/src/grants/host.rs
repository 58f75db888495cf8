//! Hosts as operators and plugins name them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// One spelling for each host, so that grants and requests compare: lower case, no final dot, IP addresses as the
/// standard library writes them and IPv6 without its brackets. `None` when it is not a host.
pub fn canonical_host(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('[') {
        return inner.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(|ip| ip.to_string());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if let Ok(ip) = name.parse::<IpAddr>() {
        // An IPv6 address without brackets cannot be told from a host and port.
        return ip.is_ipv4().then(|| ip.to_string());
    }
    let plausible = !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| !label.is_empty())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    plausible.then(|| name.to_ascii_lowercase())
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Any,
    /// Every host below a domain, which is written with its dot: `.example.com`.
    Below(String),
    Exactly(String),
}

/// Hosts that belong together: `host`, `host:port`, `*.domain`, `*.domain:port`, `*`, `*:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    name: Name,
    port: Option<u16>,
}

impl HostPattern {
    /// Every host.
    pub const ANY: Self = Self { name: Name::Any, port: None };

    /// Whether a host and port are among them. `host` is canonical.
    pub fn matches(&self, host: &str, port: u16) -> bool {
        if self.port.is_some_and(|own| own != port) {
            return false;
        }
        match &self.name {
            Name::Any => true,
            Name::Below(domain) => is_below(host, domain),
            Name::Exactly(name) => name == host,
        }
    }

    /// Whether all hosts of another pattern are among them.
    pub fn covers(&self, other: &Self) -> bool {
        if self.port.is_some() && self.port != other.port {
            return false;
        }
        match (&self.name, &other.name) {
            (Name::Any, _) => true,
            (Name::Below(domain), Name::Below(inner)) => inner.ends_with(domain.as_str()),
            (Name::Below(domain), Name::Exactly(host)) => is_below(host, domain),
            (Name::Exactly(name), Name::Exactly(host)) => name == host,
            _ => false,
        }
    }
}

fn is_below(host: &str, domain: &str) -> bool {
    host.len() > domain.len() && host.ends_with(domain)
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || "give a host such as api.example.com or api.example.com:8443, *.example.com, or * for any".to_owned();
        let text = text.trim();
        let whole = |host: &str| match host {
            "*" => Some(Name::Any),
            _ => match host.strip_prefix("*.") {
                // An address has no hosts below it.
                Some(domain) if domain.starts_with('[') || domain.parse::<IpAddr>().is_ok() => None,
                Some(domain) => canonical_host(domain).map(|domain| Name::Below(format!(".{domain}"))),
                None => canonical_host(host).map(Name::Exactly),
            },
        };
        if let Some(name) = whole(text) {
            return Ok(Self { name, port: None });
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
        Ok(Self { name: whole(host).ok_or_else(bad)?, port: Some(port) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Name::Any => f.write_str("*")?,
            Name::Below(domain) => write!(f, "*{domain}")?,
            Name::Exactly(host) if host.contains(':') => write!(f, "[{host}]")?,
            Name::Exactly(host) => f.write_str(host)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_pattern_matches_its_hosts_and_no_others() {
        for (text, host, port, matches) in [
            ("*", "anything.example", 1, true),
            ("*:443", "anything.example", 443, true),
            ("*:443", "anything.example", 80, false),
            ("API.Example.com.", "api.example.com", 8443, true),
            ("api.example.com:443", "api.example.com", 443, true),
            ("api.example.com:443", "api.example.com", 80, false),
            ("api.example.com", "evil-api.example.com", 443, false),
            ("api.example.com", "api.example.com.evil.example", 443, false),
            ("*.example.com", "a.b.example.com", 443, true),
            ("*.example.com", "example.com", 443, false),
            ("*.example.com", "evilexample.com", 443, false),
            ("*.example.com:8443", "a.example.com", 443, false),
            ("10.0.0.7", "10.0.0.7", 80, true),
            ("[FD00:0::7]:443", "fd00::7", 443, true),
        ] {
            assert_eq!(pattern(text).matches(host, port), matches, "{text} {host}:{port}");
        }
    }

    #[test]
    fn a_pattern_covers_what_is_within_it() {
        for (outer, inner, covers) in [
            ("*", "*.example.com", true),
            ("*.example.com", "*", false),
            ("*.example.com", "*.eu.example.com", true),
            ("*.eu.example.com", "*.example.com", false),
            ("*.example.com", "a.example.com:443", true),
            ("a.example.com:443", "a.example.com", false),
            ("a.example.com:443", "a.example.com:443", true),
            ("a.example.com", "a.example.com:443", true),
            ("a.example.com", "*.a.example.com", false),
        ] {
            assert_eq!(pattern(outer).covers(&pattern(inner)), covers, "{outer} {inner}");
        }
    }

    #[test]
    fn patterns_are_written_as_they_are_read() {
        for (text, shown) in [
            ("*", "*"),
            ("*.Example.com:8443", "*.example.com:8443"),
            ("Api.example.com.", "api.example.com"),
            ("[fd00:0:0::7]:80", "[fd00::7]:80"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(pattern(text).to_string(), shown);
            assert_eq!(pattern(shown), pattern(text));
        }
        for bad in
            ["", "*.", "*x", "a*b.example.com", "https://x", "x/y", "x:0", "x:", "*.10.0.0.7", "fd00::7", "*.[::1]"]
        {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }
}
