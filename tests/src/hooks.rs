//! What providers' webhooks are made of.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// The HMAC-SHA256 of a text, in hex.
pub fn hmac(secret: &str, text: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length");
    mac.update(text.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// The header with which Meta signs a body.
pub fn meta_signature(secret: &str, body: &str) -> String {
    format!("sha256={}", hmac(secret, body))
}
