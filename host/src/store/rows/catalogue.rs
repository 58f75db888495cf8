//! Servers, tokens, the audit log, devices, audiences and plugins.

use uuid::Uuid;

use super::{broken, digest, from_json, page, time, to_u32, to_u64};
use crate::clock::Time;
use crate::device::{Device, SavedPace};
use crate::grants::GrantsRow;
use crate::id::{AudienceNo, DeviceNo, HostId, TokenId, VersionNo};
use crate::plugin::PluginKind;
use crate::rollout::Quarantine;
use crate::store::{
    AudienceRow, AuditRow, HostRow, KeptAnswer, KeptCase, NewCase, NewContact, Page, PluginVersion, Result, TokenRow,
};
use crate::vault::Sealed;

from_row! {
    /// A row of `hosts`.
    #[derive(Debug)]
    #[allow(missing_docs)] // The table's columns, here and below.
    pub struct HostSql {
        pub id: Uuid,
        pub name: String,
        pub version: String,
        pub roles: String,
        pub active_workers: i32,
        pub started_at: i64,
        pub heartbeat_at: i64,
    }
}

impl From<HostSql> for HostRow {
    fn from(row: HostSql) -> Self {
        Self {
            host: HostId(row.id),
            name: row.name,
            version: row.version,
            roles: row.roles,
            active_workers: to_u32(row.active_workers.into()),
            started_at: Time::from_ms(row.started_at),
            heartbeat_at: Time::from_ms(row.heartbeat_at),
        }
    }
}

from_row! {
    /// A row of `tokens`, without the secret.
    #[derive(Debug)]
    #[allow(missing_docs)] // The columns of the query.
    pub struct TokenSql {
        pub id: Uuid,
        pub name: String,
        pub scopes: String,
        pub created_at: i64,
        pub revoked_at: Option<i64>,
    }
}

impl TokenSql {
    /// The token.
    pub fn read(self) -> Result<TokenRow> {
        Ok(TokenRow {
            id: TokenId(self.id),
            name: self.name,
            scopes: from_json("a token's scopes", &self.scopes)?,
            created_at: Time::from_ms(self.created_at),
            revoked_at: time(self.revoked_at),
        })
    }
}

from_row! {
    /// A row of `idempotency_keys`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct KeySql {
        pub request: Vec<u8>,
        pub status: i32,
        pub body: String,
    }
}

impl KeySql {
    /// The answer.
    pub fn read(self) -> Result<KeptAnswer> {
        let status = u16::try_from(self.status).map_err(|_| broken("a kept status"))?;
        Ok(KeptAnswer { request: digest(&self.request)?, status, body: self.body })
    }
}

from_row! {
    /// A row of `audit_log`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct AuditSql {
        pub no: i64,
        pub at: i64,
        pub actor: String,
        pub action: String,
        pub subject: String,
    }
}

/// A page of the audit log.
pub fn audit_page(rows: Vec<AuditSql>, limit: u32) -> Page<AuditRow, i64> {
    let Page { items, next } = page(rows, limit, |row: &AuditSql| row.no);
    let read = |r: AuditSql| AuditRow { at: Time::from_ms(r.at), actor: r.actor, action: r.action, subject: r.subject };
    Page { items: items.into_iter().map(read).collect(), next }
}

from_row! {
    /// A row of `devices`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct DeviceSql {
        pub no: i32,
        pub spec: String,
        pub held: Option<String>,
        pub created_at: i64,
        pub updated_at: i64,
    }
}

impl DeviceSql {
    /// The device.
    pub fn read(self) -> Result<Device> {
        Ok(Device {
            no: DeviceNo(self.no),
            spec: from_json("a device", &self.spec)?,
            held: self.held,
            created_at: Time::from_ms(self.created_at),
            updated_at: Time::from_ms(self.updated_at),
        })
    }
}

/// Each tag once, as the tag index holds them.
pub fn unique_tags(tags: &[String]) -> std::collections::BTreeSet<&str> {
    tags.iter().map(String::as_str).collect()
}

/// A saved pace, where a join found one.
pub fn saved_pace(next_at: Option<i64>, pace: Option<String>) -> Option<SavedPace> {
    next_at.zip(pace).map(|(next_at, pace)| SavedPace { next_at: Time::from_ms(next_at), pace })
}

from_row! {
    /// A row of `audiences`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct AudienceSql {
        pub no: i32,
        pub name: String,
        pub columns: String,
        pub contacts: i32,
        pub updated_at: i64,
    }
}

impl AudienceSql {
    /// The audience.
    pub fn read(self) -> Result<AudienceRow> {
        Ok(AudienceRow {
            name: self.name,
            no: AudienceNo(self.no),
            contacts: to_u32(self.contacts.into()),
            columns: from_json("an audience's columns", &self.columns)?,
            updated_at: Time::from_ms(self.updated_at),
        })
    }
}

from_row! {
    /// A row of `contacts`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct ContactSql {
        pub no: i32,
        pub address: String,
        pub locale: Option<String>,
        pub zone: Option<String>,
        pub variables: String,
    }
}

impl From<ContactSql> for (u32, NewContact) {
    fn from(row: ContactSql) -> Self {
        let ContactSql { no, address, locale, zone, variables } = row;
        (to_u32(no.into()), NewContact { address, locale, zone, variables })
    }
}

from_row! {
    /// A row of `plugin_versions` without the bytes, and whether `plugins` names it as the active one.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct PluginSql {
        pub no: i32,
        pub name: String,
        pub version: String,
        pub kind: String,
        pub digest: Vec<u8>,
        pub size: i64,
        pub info: String,
        pub imports: String,
        pub uploaded_at: i64,
        pub quarantined_at: Option<i64>,
        pub quarantine_reason: Option<String>,
        pub active: bool,
    }
}

impl PluginSql {
    /// The version.
    pub fn read(self) -> Result<PluginVersion> {
        Ok(PluginVersion {
            no: VersionNo(self.no),
            kind: PluginKind::parse(&self.kind).ok_or_else(|| broken("a plugin's kind"))?,
            digest: digest(&self.digest)?,
            size: to_u64(self.size),
            info: from_json("a plugin's description", &self.info)?,
            imports: from_json("a plugin's imports", &self.imports)?,
            name: self.name,
            version: self.version,
            active: self.active,
            uploaded_at: Time::from_ms(self.uploaded_at),
            quarantine: time(self.quarantined_at)
                .map(|at| Quarantine { at, reason: self.quarantine_reason.unwrap_or_default() }),
        })
    }
}

from_row! {
    /// A row of `plugin_grants`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct GrantsSql {
        pub name: String,
        pub grants: String,
        pub granted_at: i64,
        pub granted_by: String,
    }
}

impl GrantsSql {
    /// What was granted.
    pub fn read(self) -> Result<GrantsRow> {
        Ok(GrantsRow {
            plugin: self.name,
            grants: from_json("a plugin's grants", &self.grants)?,
            granted_at: Time::from_ms(self.granted_at),
            granted_by: self.granted_by,
        })
    }
}

from_row! {
    /// A row of `secrets`.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct SecretSql {
        pub name: String,
        pub host: String,
        pub key_id: String,
        pub nonce: Vec<u8>,
        pub ciphertext: Vec<u8>,
        pub updated_at: i64,
    }
}

impl From<SecretSql> for Sealed {
    fn from(row: SecretSql) -> Self {
        let SecretSql { name, host, key_id, nonce, ciphertext, updated_at } = row;
        Self { name, host, key_id, nonce, ciphertext, updated_at: Time::from_ms(updated_at) }
    }
}

from_row! {
    /// A row of `plugin_cases` with its version; without the body in listings.
    #[derive(Debug)]
    #[allow(missing_docs)]
    pub struct CaseSql {
        pub id: i64,
        pub version_no: i32,
        pub name: String,
        pub version: String,
        pub digest: Vec<u8>,
        pub at: i64,
        pub call: String,
        pub code: Option<String>,
        pub detail: Option<String>,
        pub masked: bool,
        pub reproduces: bool,
        pub complete: bool,
        pub body: Option<String>,
    }
}

impl CaseSql {
    /// The call that was kept.
    pub fn read(self) -> Result<KeptCase> {
        Ok(KeptCase {
            id: self.id,
            name: self.name,
            version: self.version,
            digest: digest(&self.digest)?,
            kept: NewCase {
                plugin: VersionNo(self.version_no),
                at: Time::from_ms(self.at),
                call: self.call,
                code: self.code,
                detail: self.detail,
                masked: self.masked,
                reproduces: self.reproduces,
                complete: self.complete,
                case: self.body.unwrap_or_default(),
            },
        })
    }
}

/// A page of kept calls.
pub fn case_page(rows: Vec<CaseSql>, limit: u32) -> Result<Page<KeptCase, i64>> {
    let Page { items, next } = page(rows, limit, |row: &CaseSql| row.id);
    Ok(Page { items: items.into_iter().map(CaseSql::read).collect::<Result<_>>()?, next })
}
