//! Log-in with an API token, the session cookie, and the proof on every form that it came from our own page.
//!
//! Sessions are stateless: the cookie names the token (by the digest that the store knows it under), its own end and a
//! random number, signed with HMAC-SHA256. Nothing has to be kept per session, so nothing grows; a restart logs nobody
//! out; and servers behind one address share sessions when they share the key file. The token is looked up on each
//! request, so that revoking it ends its sessions at once.

use std::path::Path;
use std::time::Duration;

use axum::extract::{Form, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::Digest as _;
use subtle::ConstantTimeEq as _;

use super::{Failure, Shared};
use crate::clock::Time;
use crate::http::is_https;
use crate::id::Digest;
use crate::store::TokenRow;

/// How long a form may take to arrive.
const ARRIVES_IN: Duration = Duration::from_secs(60);
/// How long a log-in lasts.
pub(super) const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// The scope that includes every other.
const ADMIN: &str = "admin";
const COOKIE: &str = "carillon_session";
const LOGIN_COOKIE: &str = "carillon_login";
const KEY_FILE: &str = "session.key";

/// The key that signs cookies and form proofs.
#[derive(Clone)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// The key kept in the data folder; made at first use, readable by its owner only. When it cannot be kept, a key for
    /// this process serves: sessions then end with it.
    pub fn load(data: &Path) -> Self {
        Self::kept(&data.join(KEY_FILE)).unwrap_or_else(|error| {
            tracing::warn!(error = %error, "the dashboard's session key cannot be kept: a restart will log everybody out");
            Self(rand::random())
        })
    }

    fn kept(path: &Path) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match read_key(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => return other,
        }
        // Linked into place whole: of two processes that start at once, one wins and the other reads its key.
        let temporary = path.with_extension(format!("{:016x}.new", rand::random::<u64>()));
        write_private(&temporary, &rand::random::<[u8; 32]>())?;
        let linked = std::fs::hard_link(&temporary, path);
        std::fs::remove_file(&temporary)?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => read_key(path),
        }
    }

    fn sign(&self, purpose: &str, message: &[u8]) -> [u8; 32] {
        hmac_sha256(&self.0, &[purpose.as_bytes(), &[0], message])
    }

    fn proof(&self, purpose: &str, message: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.sign(purpose, message))
    }

    fn proves(&self, purpose: &str, message: &[u8], proof: &str) -> bool {
        self.proof(purpose, message).as_bytes().ct_eq(proof.as_bytes()).into()
    }
}

fn read_key(path: &Path) -> std::io::Result<Key> {
    let bytes = std::fs::read(path)?;
    bytes.try_into().map(Key).map_err(|_| std::io::Error::other("the session key file does not hold 32 bytes"))
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// HMAC-SHA256 (RFC 2104) of the parts, one after the other. The key is one that fits a block.
fn hmac_sha256(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let padded = |with: u8| {
        let mut block = [with; 64];
        for (byte, key) in block.iter_mut().zip(key) {
            *byte ^= key;
        }
        block
    };
    let mut inner = sha2::Sha256::new();
    inner.update(padded(0x36));
    for part in parts {
        inner.update(part);
    }
    let mut outer = sha2::Sha256::new();
    outer.update(padded(0x5c));
    outer.update(inner.finalize());
    outer.finalize().into()
}

/// What a session cookie says: token digest, end, random number.
#[derive(Clone, Copy)]
struct Ticket {
    token: Digest,
    until: Time,
    nonce: [u8; 16],
}

impl Ticket {
    fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(56);
        out.extend_from_slice(&self.token.0);
        out.extend_from_slice(&self.until.as_ms().to_be_bytes());
        out.extend_from_slice(&self.nonce);
        out
    }

    fn seal(self, key: &Key) -> String {
        let mut bytes = self.to_bytes();
        let tag = key.sign("session", &bytes);
        bytes.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn open(text: &str, key: &Key, now: Time) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, tag) = bytes.split_at_checked(56)?;
        if !bool::from(key.sign("session", body).ct_eq(tag)) {
            return None;
        }
        let (token, rest) = body.split_at_checked(32)?;
        let (until, nonce) = rest.split_at_checked(8)?;
        let ticket = Self {
            token: Digest(token.try_into().ok()?),
            until: Time::from_ms(i64::from_be_bytes(until.try_into().ok()?)),
            nonce: nonce.try_into().ok()?,
        };
        (now < ticket.until).then_some(ticket)
    }
}

/// Somebody who is logged in.
#[derive(Clone)]
pub(super) struct Session {
    /// The token they logged in with.
    pub token: TokenRow,
    /// The proof that forms carry.
    pub csrf: String,
    /// When the request came.
    pub now: Time,
    /// What the page before asked to be said on this one.
    pub notice: Option<&'static str>,
}

impl FromRequestParts<Shared> for Session {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, ui: &Shared) -> Result<Self, Response> {
        let now = ui.core.clock.now();
        let ticket = cookie(&parts.headers, COOKIE).and_then(|c| Ticket::open(c, &ui.key, now));
        let token = match ticket {
            Some(ticket) => {
                ui.core.store.token_by_secret(ticket.token).await.map_err(|e| Failure::from(e).into_response())?
            }
            None => None,
        };
        match (ticket, token.filter(|t| t.revoked_at.is_none())) {
            (Some(ticket), Some(token)) => Ok(Self {
                token,
                csrf: ui.key.proof("csrf", &ticket.to_bytes()),
                now,
                notice: parts.uri.query().and_then(super::page::notice),
            }),
            _ => {
                let next = match (&parts.method, parts.uri.path_and_query()) {
                    (&Method::GET, Some(path)) if !path.as_str().starts_with("/ui/events") => path.as_str(),
                    _ => "/ui/",
                };
                Err(Redirect::to(&format!("/ui/login?next={}", super::page::url_part(next))).into_response())
            }
        }
    }
}

impl Session {
    /// Whether the token has a scope.
    pub fn may(&self, scope: &str) -> bool {
        self.token.scopes.iter().any(|s| s == scope || s == ADMIN)
    }

    /// Refuses what the token may not do.
    pub fn require(&self, scope: &'static str) -> Result<(), Failure> {
        if self.may(scope) { Ok(()) } else { Err(Failure::Forbidden(scope)) }
    }

    /// Whether a form's proof is this session's.
    pub fn proves(&self, proof: &str) -> bool {
        self.csrf.as_bytes().ct_eq(proof.as_bytes()).into()
    }
}

/// A form that somebody who is logged in sent from one of our pages.
pub(super) struct Posted {
    /// Who.
    pub session: Session,
    /// The fields in their order.
    pub fields: Fields,
}

impl FromRequest<Shared> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, ui: &Shared) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let session = Session::from_request_parts(&mut parts, ui).await?;
        let form = Form::<Vec<(String, String)>>::from_request(Request::from_parts(parts, body), ui);
        let Ok(form) = tokio::time::timeout(ARRIVES_IN, form).await else {
            return Err(StatusCode::REQUEST_TIMEOUT.into_response());
        };
        let Form(fields) = form.map_err(IntoResponse::into_response)?;
        let fields = Fields(fields);
        if !session.proves(fields.get("csrf")) {
            return Err(Failure::BadForm.into_response());
        }
        Ok(Self { session, fields })
    }
}

/// The fields of a form.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// A field's value as it was typed; empty when the form does not have it.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// A field's value without surrounding space.
    pub fn trimmed(&self, name: &str) -> &str {
        self.get(name).trim()
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(n, v)| (n == name).then_some(v))
}

fn set_cookie(headers: &HeaderMap, name: &str, value: &str, max_age: Duration) -> String {
    let secure = if is_https(headers) { "; Secure" } else { "" };
    format!("{name}={value}; Path=/ui; Max-Age={}; HttpOnly; SameSite=Strict{secure}", max_age.as_secs())
}

/// The cookie of a new session, with the digest of the token's secret.
pub(super) fn begin(ui: &Shared, headers: &HeaderMap, token: Digest) -> String {
    let ticket = Ticket { token, until: ui.core.clock.now().plus(LIFETIME), nonce: rand::random() };
    set_cookie(headers, COOKIE, &ticket.seal(&ui.key), LIFETIME)
}

/// The cookie that ends a session.
pub(super) fn end(headers: &HeaderMap) -> String {
    set_cookie(headers, COOKIE, "", Duration::ZERO)
}

/// The cookie and the proof of a log-in form: nobody can be logged in by another site's form.
pub(super) fn login_form(ui: &Shared, headers: &HeaderMap) -> (String, String) {
    let nonce = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());
    let proof = ui.key.proof("login", nonce.as_bytes());
    (set_cookie(headers, LOGIN_COOKIE, &nonce, Duration::from_secs(3600)), proof)
}

/// Whether a log-in form is one that this browser was given.
pub(super) fn login_proves(ui: &Shared, headers: &HeaderMap, proof: &str) -> bool {
    cookie(headers, LOGIN_COOKIE).is_some_and(|nonce| ui.key.proves("login", nonce.as_bytes(), proof))
}

/// Whether a session cookie opens with a key that nobody has.
#[cfg(any(test, fuzzing))]
pub(super) fn opens(headers: &HeaderMap) -> bool {
    let ticket = |cookie| Ticket::open(cookie, &Key([7; 32]), Time::default());
    cookie(headers, COOKIE).and_then(ticket).is_some()
        || headers.values().any(|v| v.to_str().is_ok_and(|v| ticket(v).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_is_the_standard_one() {
        // RFC 4231, test case 3, whose key (20 times 0xaa) padded with zeros to 32 bytes is the same HMAC key.
        let mut key = [0u8; 32];
        key[..20].fill(0xaa);
        let mac = hmac_sha256(&key, &[&[0xdd; 25], &[0xdd; 25]]);
        assert_eq!(hex::encode(mac), "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    }

    #[test]
    fn a_ticket_opens_with_its_key_in_its_time_and_unchanged() {
        let (key, now) = (Key([7; 32]), Time::from_ms(1_000));
        let ticket = Ticket { token: Digest([1; 32]), until: Time::from_ms(2_000), nonce: [3; 16] };
        let sealed = ticket.seal(&key);
        assert_eq!(Ticket::open(&sealed, &key, now).unwrap().token, Digest([1; 32]));
        assert!(Ticket::open(&sealed, &key, Time::from_ms(2_000)).is_none());
        assert!(Ticket::open(&sealed, &Key([8; 32]), now).is_none());
        let other = format!("B{}", &sealed[1..]);
        assert!(Ticket::open(&other, &key, now).is_none());
        assert!(Ticket::open("", &key, now).is_none());
    }

    #[test]
    fn the_key_is_kept_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = Key::load(folder.path());
        assert_eq!(first.0, Key::load(folder.path()).0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(folder.path().join(KEY_FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
