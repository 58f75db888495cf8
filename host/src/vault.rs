//! Secrets at rest: AES-256-GCM with a key that is not in the store. No I/O.
//!
//! A secret's name and host are authenticated with its value, so that whoever can write to the store can neither give a secret
//! another host nor exchange two of them. Several keys may be known: the first one encrypts, all decrypt, so that keys can be
//! exchanged while servers run.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::clock::Time;
use crate::id::Digest;

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Keys at most: the new one, the one before, and some that were forgotten.
const MAX_KEYS: usize = 10;

/// A secret as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What plugins call it.
    pub name: String,
    /// The host, or host and port, that it may go to.
    pub host: String,
    /// Which key it is encrypted with.
    pub key_id: String,
    /// Never used twice with a key.
    pub nonce: Vec<u8>,
    /// The value, encrypted, with its tag.
    pub ciphertext: Vec<u8>,
    /// When its value was given.
    pub updated_at: Time,
}

/// Why a secret cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// What was given as keys does not read; it is not quoted.
    #[error(
        "give keys of 32 bytes in base64 or hex, comma-separated, the one that encrypts first: `carillon secret key` prints one"
    )]
    Keys,
    /// There is no key.
    #[error("CARILLON_SECRETS_KEY is not set: `carillon secret key` prints a key; give the same one to every server")]
    NoKey,
    /// The secret is encrypted with a key that is not among those given.
    #[error("it is encrypted with the key {0}, which is not in CARILLON_SECRETS_KEY")]
    OtherKey(String),
    /// The row is not what was written.
    #[error("its row in the store is damaged, or was changed by somebody without the key")]
    Damaged,
}

struct Key {
    id: String,
    key: LessSafeKey,
}

/// The keys that this server knows. `Debug` shows their ids.
#[derive(Default)]
pub struct Vault(Vec<Key>);

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl Vault {
    /// Reads keys as settings name them; nothing is no key.
    ///
    /// # Errors
    /// [`VaultError::Keys`].
    pub fn parse(text: Option<&str>) -> Result<Self, VaultError> {
        let entries = text.unwrap_or_default().split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let keys = entries.map(Key::parse).collect::<Option<Vec<_>>>().ok_or(VaultError::Keys)?;
        if keys.len() > MAX_KEYS { Err(VaultError::Keys) } else { Ok(Self(keys)) }
    }

    /// A new key, as the settings take it.
    pub fn new_key() -> String {
        STANDARD.encode(rand::random::<[u8; KEY_BYTES]>())
    }

    /// The id of the key that encrypts.
    ///
    /// # Errors
    /// [`VaultError::NoKey`].
    pub fn current(&self) -> Result<&str, VaultError> {
        self.0.first().map(|key| key.id.as_str()).ok_or(VaultError::NoKey)
    }

    /// Encrypts a secret with the first key.
    ///
    /// # Errors
    /// [`VaultError::NoKey`].
    pub fn seal(&self, name: &str, host: &str, value: &str, now: Time) -> Result<Sealed, VaultError> {
        let Key { id, key } = self.0.first().ok_or(VaultError::NoKey)?;
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut ciphertext = value.as_bytes().to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound_to(name, host), &mut ciphertext)
            .map_err(|_| VaultError::Damaged)?;
        Ok(Sealed {
            name: name.to_owned(),
            host: host.to_owned(),
            key_id: id.clone(),
            nonce: nonce.to_vec(),
            ciphertext,
            updated_at: now,
        })
    }

    /// The value of a secret.
    ///
    /// # Errors
    /// When its key is not there, or the row is not what was written.
    pub fn open(&self, sealed: &Sealed) -> Result<String, VaultError> {
        if self.0.is_empty() {
            return Err(VaultError::NoKey);
        }
        let known = self.0.iter().find(|key| key.id == sealed.key_id);
        let Key { key, .. } = known.ok_or_else(|| VaultError::OtherKey(sealed.key_id.clone()))?;
        let nonce = Nonce::try_assume_unique_for_key(&sealed.nonce).map_err(|_| VaultError::Damaged)?;
        let mut bytes = sealed.ciphertext.clone();
        let value = key
            .open_in_place(nonce, bound_to(&sealed.name, &sealed.host), &mut bytes)
            .map_err(|_| VaultError::Damaged)?;
        String::from_utf8(value.to_vec()).map_err(|_| VaultError::Damaged)
    }
}

impl Key {
    fn parse(text: &str) -> Option<Self> {
        let decoded = match text.len() {
            64 => hex::decode(text).ok(),
            _ => [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD].iter().find_map(|base| base.decode(text).ok()),
        };
        let bytes = decoded.filter(|bytes| bytes.len() == KEY_BYTES)?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).ok()?);
        // Tells keys apart and says nothing of the key.
        let id: String = Digest::of(&[b"carillon secrets key ".as_slice(), &bytes].concat()).to_string();
        Some(Self { id: id.chars().take(12).collect(), key })
    }
}

/// What is authenticated beside the value. Neither part has a zero byte.
fn bound_to(name: &str, host: &str) -> Aad<Vec<u8>> {
    Aad::from([name.as_bytes(), &[0], host.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_ms(1);

    fn vault(keys: &[&str]) -> Vault {
        Vault::parse(Some(&keys.join(","))).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_and_unchanged() {
        let (old, new) = (Vault::new_key(), Vault::new_key());
        let vault_of_old = vault(&[&old]);
        let sealed = vault_of_old.seal("KEY", "api.example.com", "hush", NOW).unwrap();
        assert!(!format!("{sealed:?}").contains("hush") && !sealed.ciphertext.windows(4).any(|w| w == b"hush"));
        assert_eq!(vault_of_old.open(&sealed).unwrap(), "hush");
        // The key before goes on decrypting; the new one encrypts.
        let both = vault(&[&new, &old]);
        assert_eq!(both.open(&sealed).unwrap(), "hush");
        let again = both.seal("KEY", "api.example.com", "hush", NOW).unwrap();
        assert_ne!((&again.key_id, &again.nonce), (&sealed.key_id, &sealed.nonce));
        assert_eq!(again.key_id, both.current().unwrap());
        assert_eq!(vault(&[&new]).open(&sealed), Err(VaultError::OtherKey(sealed.key_id.clone())));
        assert_eq!(Vault::default().open(&sealed), Err(VaultError::NoKey));
        assert_eq!(Vault::default().seal("KEY", "x", "y", NOW), Err(VaultError::NoKey));

        // Neither the host nor the name nor the value can be exchanged.
        let other = vault_of_old.seal("OTHER", "api.example.com", "theirs", NOW).unwrap();
        let mut flipped = sealed.ciphertext.clone();
        flipped[0] ^= 1;
        for changed in [
            Sealed { host: "evil.example.com".into(), ..sealed.clone() },
            Sealed { name: "OTHER".into(), ..sealed.clone() },
            Sealed { nonce: other.nonce.clone(), ciphertext: other.ciphertext.clone(), ..sealed.clone() },
            Sealed { ciphertext: flipped, ..sealed.clone() },
            Sealed { ciphertext: Vec::new(), ..sealed.clone() },
            Sealed { nonce: vec![0; 3], ..sealed.clone() },
            Sealed { name: "KE".into(), host: "Yapi.example.com".into(), ..sealed },
        ] {
            assert_eq!(vault_of_old.open(&changed), Err(VaultError::Damaged), "{changed:?}");
        }
    }

    #[test]
    fn keys_are_read_in_hex_and_base64_and_never_shown() {
        let bytes = [7u8; 32];
        let hex = hex::encode(bytes);
        for text in [&hex, &STANDARD.encode(bytes), &URL_SAFE_NO_PAD.encode(bytes)] {
            assert_eq!(vault(&[text]).current(), vault(&[&hex]).current());
        }
        assert!(!format!("{:?}", vault(&[&hex])).contains("0707"));
        for bad in ["hush", &hex[1..], "é", &format!("{hex},x"), &[hex.as_str(); 11].join(",")] {
            let error = Vault::parse(Some(bad)).err().unwrap();
            assert_eq!(error, VaultError::Keys);
            assert!(!error.to_string().contains("hush") && error.to_string().contains("carillon secret key"));
        }
        assert_eq!(Vault::parse(None).unwrap().current(), Err(VaultError::NoKey));
        assert_eq!(Vault::parse(Some(" , ")).unwrap().current(), Err(VaultError::NoKey));
    }
}
