//! What an operator allows: reachable hosts beyond the public internet, secrets and where they may go, sizes and times.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hyper::header::HeaderValue;

use crate::grants::{canonical_host, is_secret_name};

/// An entry of the policy that cannot be read. The text never shows a secret's value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not `host:port`.
    #[error("`{0}` is not a host and port, such as gateway.lan:8080, 10.0.0.7:80 or [fd00::7]:443")]
    Allowed(String),
    /// Not `NAME=VALUE@HOST`, and not enough of it to name the secret.
    #[error("a secret must be NAME=VALUE@HOST, its name made of letters, digits, `_`, `-` and `.`")]
    Secret,
    /// The host is missing or wrong.
    #[error("secret {0}: it must end in @HOST or @HOST:PORT, the one host it may be sent to")]
    SecretHost(String),
    /// The value is empty or has characters that no header may have.
    #[error("secret {0}: its value is empty or has control characters")]
    SecretValue(String),
}

/// A host and port that plugins may reach although its address is not public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    host: String,
    port: u16,
}

impl FromStr for Allowed {
    type Err = PolicyError;

    /// Reads `host:port`; the host is a name or an IP address, IPv6 in brackets.
    fn from_str(entry: &str) -> Result<Self, PolicyError> {
        let error = || PolicyError::Allowed(entry.to_owned());
        let (host, port) = entry.trim().rsplit_once(':').ok_or_else(error)?;
        let host = canonical_host(host).ok_or_else(error)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        Ok(Self { host, port })
    }
}

/// A value that plugins may have put into a header without seeing it, bound to the host it may go to.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    name: String,
    value: String,
    host: String,
    port: Option<u16>,
}

impl Secret {
    /// Reads `NAME=VALUE@HOST` or `NAME=VALUE@HOST:PORT`; the value may contain `=` and `@`. Not a [`FromStr`], so that
    /// it is not used as a parser of command line arguments by accident: those repeat what they cannot read.
    pub fn parse(entry: &str) -> Result<Self, PolicyError> {
        let (name, rest) = entry.split_once('=').ok_or(PolicyError::Secret)?;
        let name = name.trim();
        if !is_secret_name(name) {
            return Err(PolicyError::Secret);
        }
        let (value, at) = rest.rsplit_once('@').ok_or_else(|| PolicyError::SecretHost(name.to_owned()))?;
        Self::new(name, value, at)
    }

    /// A secret with this value for this host, which may come with a port.
    pub fn new(name: &str, value: &str, at: &str) -> Result<Self, PolicyError> {
        if !is_secret_name(name) {
            return Err(PolicyError::Secret);
        }
        let host_error = || PolicyError::SecretHost(name.to_owned());
        let (host, port) = match canonical_host(at.trim()) {
            Some(host) => (host, None),
            None => at.parse::<Allowed>().map(|a| (a.host, Some(a.port))).map_err(|_| host_error())?,
        };
        if value.is_empty() || HeaderValue::from_str(value).is_err() {
            return Err(PolicyError::SecretValue(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned(), host, port })
    }

    /// What plugins call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is: for whoever checks with it what came in.
    pub(crate) fn value(&self) -> &str {
        &self.value
    }

    /// The host it may go to.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host, and the port where it is bound to one, as [`Secret::new`] takes them.
    pub fn destination(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        self.port.map_or(host.clone(), |port| format!("{host}:{port}"))
    }

    fn goes_to(&self, host: &str, port: u16) -> bool {
        self.host == host && self.port.is_none_or(|bound| bound == port)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…@{}", self.name, self.host)
    }
}

/// What may leave, and how much of it.
#[derive(Debug, Clone)]
pub struct EgressPolicy {
    /// Hosts that may be reached although their address is not public.
    pub allow: Vec<Allowed>,
    /// Secrets, each bound to a host. A name may occur again with another host.
    pub secrets: Vec<Secret>,
    /// Largest body of a request.
    pub max_request_bytes: usize,
    /// Largest body of an answer.
    pub max_response_bytes: usize,
    /// Largest sum of header names and values, of a request and of an answer.
    pub max_header_bytes: usize,
    /// From the name's lookup to the end of the TLS handshake.
    pub connect_timeout: Duration,
    /// How many idle connections are kept for each host.
    pub idle_per_host: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
}

impl Default for EgressPolicy {
    /// The public internet, no secrets, 1 MiB each way, 32 KiB of headers, 5 s to connect, as many idle connections for
    /// each host as workers exist by default (500), for 30 s.
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            secrets: Vec::new(),
            max_request_bytes: 1024 * 1024,
            max_response_bytes: 1024 * 1024,
            max_header_bytes: 32 * 1024,
            connect_timeout: Duration::from_secs(5),
            idle_per_host: 500,
            idle_timeout: Duration::from_secs(30),
        }
    }
}

impl EgressPolicy {
    /// Whether an operator granted this host and port by name. `host` is canonical.
    pub(super) fn grants(&self, host: &str, port: u16) -> bool {
        self.allow.iter().any(|a| a.host == host && a.port == port)
    }

    /// The value of a secret, if it may go to this host and port. `host` is canonical. A name that the settings have is theirs,
    /// whatever is `stored` under it.
    pub(super) fn secret<'a>(&'a self, stored: &'a [Secret], name: &str, host: &str, port: u16) -> Option<&'a str> {
        let set = self.secrets.iter().any(|s| s.name == name);
        let known = if set { &self.secrets } else { stored };
        known.iter().find(|s| s.name == name && s.goes_to(host, port)).map(|s| s.value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_read_and_compared_in_one_spelling() {
        let allow = ["Gateway.LAN.:8080", "10.0.0.7:80", "[FD00:0::7]:443"];
        let policy = EgressPolicy { allow: allow.map(|a| a.parse().unwrap()).to_vec(), ..EgressPolicy::default() };
        assert!(policy.grants("gateway.lan", 8080) && policy.grants("10.0.0.7", 80) && policy.grants("fd00::7", 443));
        assert!(!policy.grants("gateway.lan", 80) && !policy.grants("10.0.0.8", 80));
        for bad in [
            "gateway.lan",
            "gateway.lan:",
            "gateway.lan:0",
            "gateway.lan..:80",
            ":80",
            "a b:80",
            "fd00::7:443",
            "http://x:80",
            "x:99999",
        ] {
            let error = bad.parse::<Allowed>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{bad}`")), "{error}");
        }
    }

    #[test]
    fn a_secret_is_bound_to_its_host_and_never_shown() {
        let secret = Secret::parse("TOKEN=hush=a@b@Api.Example.com").unwrap();
        let policy = EgressPolicy {
            secrets: vec![secret.clone(), Secret::parse("KEY=v4lue@api.example.com:8443").unwrap()],
            ..EgressPolicy::default()
        };
        assert_eq!(policy.secret(&[], "TOKEN", "api.example.com", 443), Some("hush=a@b"));
        assert_eq!(policy.secret(&[], "TOKEN", "evil.example.com", 443), None);
        assert_eq!(policy.secret(&[], "KEY", "api.example.com", 8443), Some("v4lue"));
        assert_eq!(policy.secret(&[], "KEY", "api.example.com", 443), None);
        let shown = format!("{policy:?}");
        assert!(!shown.contains("hush") && !shown.contains("v4lue"), "{shown}");
        assert_eq!((secret.name(), secret.host()), ("TOKEN", "api.example.com"));
        // What the settings say wins, also where it is for another host.
        let stored = [("TOKEN", "stored", "evil.example.com"), ("NEW", "n3w", "[fd00::7]:8443")]
            .map(|(name, value, host)| Secret::new(name, value, host).unwrap());
        assert_eq!(policy.secret(&stored, "TOKEN", "evil.example.com", 443), None);
        assert_eq!(policy.secret(&stored, "NEW", "fd00::7", 8443), Some("n3w"));
        assert_eq!(stored.map(|s| s.destination()), ["evil.example.com", "[fd00::7]:8443"]);
    }

    #[test]
    fn a_bad_secret_is_named_without_its_value() {
        for bad in
            ["hush", "=hush@host", "a b=hush@host", "TOKEN=hush", "TOKEN=hush@", "TOKEN=hu\nsh@host", "TOKEN=@host"]
        {
            let error = Secret::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("hu"), "{error}");
            assert_eq!(error.contains("TOKEN"), bad.starts_with("TOKEN"), "{error}");
        }
    }
}
