//! Typed ids: one type per entity, so that a device's number can never stand where a message's belongs.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// An id that does not read as one; says what a good one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not valid: {rule}")]
pub struct BadId {
    what: &'static str,
    rule: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id; ids made later sort later (UUID version 7).
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(s: &str) -> Result<Self, BadId> {
                Uuid::parse_str(s).map(Self).map_err(|_| BadId { what: $what, rule: "expected a UUID" })
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id!(
    /// A campaign.
    CampaignId,
    "campaign id"
);
uuid_id!(
    /// A sequence.
    SequenceId,
    "sequence id"
);
uuid_id!(
    /// One process of the fleet of servers, from its start to its end.
    HostId,
    "host id"
);
uuid_id!(
    /// An API token (not its secret).
    TokenId,
    "token id"
);

uuid_id!(
    /// A webhook (not its key).
    WebhookId,
    "webhook id"
);

number_id!(
    /// A device's number inside the store: what message rows carry in place of the name that users give it.
    DeviceNo,
    i32
);
number_id!(
    /// One frozen version of an audience (each upload makes a new one), or the contacts of a sequence.
    AudienceNo,
    i32
);
number_id!(
    /// A sequence's number inside the store.
    SequenceNo,
    i32
);
number_id!(
    /// An uploaded version of a plugin; stands for its digest in message rows.
    VersionNo,
    i32
);
number_id!(
    /// A rollout of a plugin version.
    RolloutNo,
    i32
);

/// The id that users give a device: 1 to 64 of `A-Z a-z 0-9 . _ : @ + -`. It is part of Redis keys, between braces.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct DeviceId(std::sync::Arc<str>);

impl DeviceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DeviceId {
    type Err = BadId;
    fn from_str(s: &str) -> Result<Self, BadId> {
        let good = (1..=64).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'@' | b'+' | b'-'));
        if good {
            Ok(Self(s.into()))
        } else {
            Err(BadId { what: "device id", rule: "expected 1 to 64 letters, digits or . _ : @ + -" })
        }
    }
}

impl<'de> Deserialize<'de> for DeviceId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// One run of a campaign (or one step of a sequence): a random number from [`RunKey::MIN`] to [`RunKey::MAX`],
/// unique in its store. A message id starts with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunKey(pub i32);

impl RunKey {
    /// The smallest key: from here on every message id has exactly 19 decimal digits.
    pub const MIN: i32 = 232_830_644;
    /// The largest key.
    pub const MAX: i32 = i32::MAX;

    /// A random key; the store refuses one that is taken.
    pub fn random() -> Self {
        Self(rand::random_range(Self::MIN..=Self::MAX))
    }

    /// The smallest message id that this run can have.
    pub const fn first(self) -> MessageId {
        MessageId((self.0 as i64) << 32)
    }

    /// The largest message id that this run can have.
    pub const fn last(self) -> MessageId {
        MessageId(((self.0 as i64) << 32) | 0xffff_ffff)
    }
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message: `run key << 32 | number of the contact in its audience`. So the primary key alone says that a run sends
/// to a contact once, a run's messages lie together, and a range of ids is a page of a run. Always 19 decimal
/// digits, a string on the wire (JavaScript numbers are too small), and the idempotency key that providers see; the
/// random run key keeps it unique across stores.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId(pub i64);

impl MessageId {
    /// The message of `run` to the contact with this number.
    pub const fn new(run: RunKey, contact: u32) -> Self {
        Self(((run.0 as i64) << 32) | contact as i64)
    }

    /// The run that the message belongs to.
    pub const fn run(self) -> RunKey {
        RunKey((self.0 >> 32) as i32)
    }

    /// The contact's number in the run's audience.
    pub const fn contact(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:019}", self.0)
    }
}

impl FromStr for MessageId {
    type Err = BadId;
    fn from_str(s: &str) -> Result<Self, BadId> {
        let bad = BadId { what: "message id", rule: "expected 19 decimal digits" };
        if s.len() != 19 || !s.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad);
        }
        let id = Self(s.parse().map_err(|_| bad.clone())?);
        if id.run().0 < RunKey::MIN { Err(bad) } else { Ok(id) }
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// The sha256 of a plugin's bytes, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Digest {
    type Err = BadId;
    fn from_str(s: &str) -> Result<Self, BadId> {
        let mut out = [0; 32];
        hex::decode_to_slice(s, &mut out)
            .map_err(|_| BadId { what: "digest", rule: "expected 64 hex digits of a sha256" })?;
        Ok(Self(out))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// What the API's description says of ids: texts, and what they look like.
macro_rules! string_schema {
    ($($name:ident: $pattern:literal),* $(,)?) => {$(
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                let text = utoipa::openapi::schema::Type::String;
                utoipa::openapi::ObjectBuilder::new().schema_type(text).pattern(Some($pattern)).into()
            }
        }
        impl utoipa::ToSchema for $name {}
    )*};
}

string_schema!(
    CampaignId: "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    SequenceId: "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    HostId: "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    TokenId: "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    WebhookId: "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    DeviceId: "^[A-Za-z0-9._:@+-]{1,64}$",
    MessageId: "^[1-9][0-9]{18}$",
    Digest: "^[0-9a-f]{64}$",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_is_19_digits_and_holds_run_and_contact() {
        for run in [RunKey(RunKey::MIN), RunKey(RunKey::MAX), RunKey::random()] {
            for contact in [0, 1, u32::MAX] {
                let id = MessageId::new(run, contact);
                assert_eq!(id.to_string().len(), 19);
                assert_eq!((id.run(), id.contact()), (run, contact));
                assert_eq!(id.to_string().parse::<MessageId>().unwrap(), id);
                assert!(run.first() <= id && id <= run.last());
            }
        }
        assert!("12".parse::<MessageId>().is_err());
        assert!("0000000000000000001".parse::<MessageId>().is_err());
    }

    #[test]
    fn a_device_id_cannot_break_a_redis_key() {
        assert!("dev-1".parse::<DeviceId>().is_ok());
        for bad in ["", "a b", "a{b}", "é", &"x".repeat(65)] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad}");
        }
    }
}
