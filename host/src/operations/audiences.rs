//! Audiences: imported from CSV or NDJSON as a stream, in constant memory.
//!
//! A broken row costs only itself: it is rejected with its line and the reason, and the rest is accepted. An upload that ends
//! early leaves the audience as it was.

mod csv;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod ndjson;

use std::collections::HashSet;

use jiff::tz::TimeZone;
use serde::Serialize;
use tokio::io::AsyncRead;
use utoipa::ToSchema;

use crate::core::Core;
use crate::device::is_word;
use crate::id::AudienceNo;
use crate::store::{AudienceRow, NewContact, Page};

use super::suppressions::address_problem;
use super::{Actor, OpError, Result, done};

/// Contacts stored by one statement.
const BATCH: usize = 2_000;
/// Rejected rows that are listed.
pub const MAX_LISTED: usize = 1_000;
/// The longest row, in bytes.
const MAX_ROW: usize = 64 * 1024;
/// The most columns.
const MAX_COLUMNS: usize = 200;
/// The longest name of a column, in bytes.
const MAX_COLUMN: usize = 64;

/// What an upload is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values with a header, RFC 4180.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

/// A row that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rejected {
    /// Its line in the upload, from 1.
    pub line: u64,
    /// Why.
    pub reason: String,
}

/// What an import came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ImportReport {
    /// Contacts accepted.
    pub accepted: u32,
    /// Rows rejected, in all.
    pub rejected_count: u64,
    /// The first 1000 of them.
    pub rejected: Vec<Rejected>,
}

impl ImportReport {
    fn reject(&mut self, line: u64, reason: impl Into<String>) {
        self.rejected_count += 1;
        if self.rejected.len() < MAX_LISTED {
            self.rejected.push(Rejected { line, reason: reason.into() });
        }
    }
}

/// What went wrong with an upload as a whole.
enum Broken {
    /// The bytes stopped coming, or cannot be read as what they claim to be.
    Upload(String),
    /// The store failed, or the header cannot be used.
    Operation(OpError),
}

impl<E: Into<OpError>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::Operation(error.into())
    }
}

/// Reads an audience's new version from a stream. It becomes current when all of it was read; until then, and when the
/// stream breaks off, the audience stays as it was.
///
/// # Errors
/// [`OpError::Invalid`] when the name or the header cannot be used, or the stream broke off.
pub async fn import(
    core: &Core,
    actor: &Actor,
    name: &str,
    format: Format,
    reader: impl AsyncRead + Send + Unpin + 'static,
) -> Result<ImportReport> {
    if !is_word(name) {
        return Err(OpError::invalid("name", "give 1 to 64 letters, digits, - or _"));
    }
    let (core, actor, name) = (core.clone(), actor.clone(), name.to_owned());
    // A task of its own: when the caller goes away, the unfinished version must still be thrown away.
    let import = tokio::spawn(async move {
        let mut sink = Sink::new(&core, &name);
        let read = match format {
            Format::Csv => csv::read(reader, &mut sink).await,
            Format::Ndjson => ndjson::read(reader, &mut sink).await,
        };
        let finished = match read {
            Ok(()) => sink.finish().await,
            Err(broken) => Err(broken),
        };
        if let Err(broken) = finished {
            sink.abort().await;
            return Err(match broken {
                Broken::Upload(problem) => OpError::invalid("body", problem),
                Broken::Operation(error) => error,
            });
        }
        let report = sink.report;
        let subject = format!("{name}: {} contacts, {} rejected", report.accepted, report.rejected_count);
        done(&core, &actor, "audience.import", subject, &[]).await?;
        Ok(report)
    });
    import.await.map_err(|error| OpError::Internal(error.into()))?
}

/// All audiences, by name.
///
/// # Errors
/// When the store is away.
pub async fn list(core: &Core, cursor: Option<&str>, limit: u32) -> Result<Page<AudienceRow, String>> {
    Ok(core.store.audiences(cursor, limit).await?)
}

/// One audience.
///
/// # Errors
/// [`OpError::NotFound`] when there is none.
pub async fn audience(core: &Core, name: &str) -> Result<AudienceRow> {
    core.store.audience(name).await?.ok_or_else(|| OpError::not_found("audience", name))
}

/// Where rows go: a batch in memory, then the store.
struct Sink<'a> {
    core: &'a Core,
    name: &'a str,
    columns: Vec<String>,
    version: Option<AudienceNo>,
    /// The number that the next contact gets; 0 is "before the first".
    next: u32,
    batch: Vec<NewContact>,
    lines: Vec<u64>,
    in_batch: HashSet<String>,
    report: ImportReport,
}

const DUPLICATE: &str = "duplicate of an earlier line";

impl<'a> Sink<'a> {
    fn new(core: &'a Core, name: &'a str) -> Self {
        Self {
            core,
            name,
            columns: Vec::new(),
            version: None,
            next: 1,
            batch: Vec::with_capacity(BATCH),
            lines: Vec::with_capacity(BATCH),
            in_batch: HashSet::with_capacity(BATCH),
            report: ImportReport::default(),
        }
    }

    /// Takes a row: its contact, or why it is none.
    async fn take(&mut self, line: u64, row: Result<NewContact, String>) -> Result<(), Broken> {
        let contact = match row {
            Ok(contact) => contact,
            Err(reason) => {
                self.report.reject(line, reason);
                return Ok(());
            }
        };
        if !self.in_batch.insert(contact.address.clone()) {
            self.report.reject(line, DUPLICATE);
            return Ok(());
        }
        self.batch.push(contact);
        self.lines.push(line);
        if self.batch.len() >= BATCH {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        let count = u32::try_from(self.batch.len()).unwrap_or(u32::MAX);
        let max = self.core.config.audience_max;
        if u64::from(self.report.accepted) + u64::from(count) > u64::from(max) {
            return Err(OpError::invalid("body", format!("an audience has at most {max} contacts")).into());
        }
        let version = match self.version {
            Some(version) => version,
            None => {
                let begun = self.core.store.begin_audience(self.name, &self.columns, self.core.clock.now()).await?;
                *self.version.insert(begun)
            }
        };
        if count > 0 {
            let skipped = self.core.store.append_contacts(version, self.next, &self.batch).await?;
            for position in &skipped {
                let line = usize::try_from(*position).ok().and_then(|p| self.lines.get(p)).copied();
                self.report.reject(line.unwrap_or(0), DUPLICATE);
            }
            self.report.accepted += count.saturating_sub(u32::try_from(skipped.len()).unwrap_or(count));
            self.next = self.next.saturating_add(count);
        }
        self.batch.clear();
        self.lines.clear();
        self.in_batch.clear();
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Broken> {
        self.flush().await?;
        if let Some(version) = self.version {
            let (accepted, last) = (self.report.accepted, self.next.saturating_sub(1));
            self.core.store.finish_audience(version, accepted, last, self.core.clock.now()).await?;
        }
        // Duplicates come to light batch by batch: back into the order of the upload.
        self.report.rejected.sort_by_key(|r| r.line);
        Ok(())
    }

    async fn abort(&mut self) {
        if let Some(version) = self.version
            && let Err(error) = self.core.store.abort_audience(version).await
        {
            tracing::warn!(error = %error, "an unfinished audience stays until it is pruned");
        }
    }
}

/// A contact made of named values, of which `address`, `locale` and `zone` are special; or what is wrong with it.
pub(super) fn contact(fields: impl Iterator<Item = (String, String)>) -> Result<NewContact, String> {
    let (mut address, mut locale, mut zone) = (None, None, None);
    let mut variables = Vec::new();
    let mut bytes = 0;
    for (name, value) in fields {
        bytes += name.len() + value.len();
        if bytes > MAX_ROW {
            return Err(format!("the row is longer than {MAX_ROW} bytes"));
        }
        if value.contains('\0') {
            return Err(format!("column {name}: has a zero byte"));
        }
        match name.as_str() {
            "address" => address = Some(value.trim().to_owned()),
            "locale" => locale = Some(value.trim().to_owned()).filter(|v| !v.is_empty()),
            "zone" => zone = Some(value.trim().to_owned()).filter(|v| !v.is_empty()),
            _ => variables.push((name, value)),
        }
    }
    let address = address.ok_or("the address is missing")?;
    if let Some(problem) = address_problem(&address) {
        return Err(problem.to_owned());
    }
    if locale
        .as_ref()
        .is_some_and(|l| l.len() > 35 || !l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
    {
        return Err("locale: expected a language tag such as de-CH".to_owned());
    }
    if zone.as_ref().is_some_and(|z| TimeZone::get(z).is_err()) {
        return Err("zone: expected an IANA time zone such as Europe/Rome".to_owned());
    }
    let variables = serde_json::to_string(&variables).map_err(|e| e.to_string())?;
    Ok(NewContact { address, locale, zone, variables })
}

/// What is wrong with the names of columns.
fn columns_problem<'c>(columns: impl Iterator<Item = &'c str>) -> Option<String> {
    let mut seen = HashSet::new();
    for (n, column) in columns.enumerate() {
        if n >= MAX_COLUMNS {
            return Some(format!("there are more than {MAX_COLUMNS} columns"));
        }
        if column.is_empty() {
            return Some(format!("column {} has no name", n + 1));
        }
        if column.len() > MAX_COLUMN || column.chars().any(char::is_control) {
            return Some(format!(
                "the name of column {} is longer than {MAX_COLUMN} bytes or has control characters",
                n + 1
            ));
        }
        if !seen.insert(column) {
            return Some(format!("the column {column} is there twice"));
        }
    }
    None
}

/// Whether a column is a variable (and not one of the special ones).
fn is_variable(column: &str) -> bool {
    !matches!(column, "address" | "locale" | "zone")
}
