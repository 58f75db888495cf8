//! The suppression list. Addresses stay out of the audit log: it says how many entries were written, not which.

use crate::campaign::BadField;
use crate::consent::{NewSuppression, Suppression};
use crate::core::Core;
use crate::device::is_word;
use crate::queue::Wake;
use crate::store::Page;

use super::{Actor, OpError, Result, check, done};

/// The longest address, in bytes.
pub const MAX_ADDRESS: usize = 1024;
/// Problems listed at most for one request.
const MAX_PROBLEMS: usize = 100;

/// Adds entries; those that are there stay as they are. Returns how many are new.
///
/// # Errors
/// [`OpError::Invalid`] with the problems of the entries.
pub async fn add(core: &Core, actor: &Actor, mut entries: Vec<NewSuppression>) -> Result<u32> {
    if entries.is_empty() {
        return Err(OpError::invalid("", "give at least one entry"));
    }
    let mut problems = Vec::new();
    for (n, entry) in entries.iter_mut().enumerate() {
        entry.address = entry.address.trim().to_owned();
        problems.extend(address_problem(&entry.address).map(|p| BadField::new(format!("[{n}].address"), p)));
        problems.extend(channel_problem(entry.channel.as_deref()).map(|p| BadField::new(format!("[{n}].channel"), p)));
        if entry.reason.is_empty() || entry.reason.len() > 200 || entry.reason.chars().any(char::is_control) {
            problems.push(BadField::new(format!("[{n}].reason"), "give 1 to 200 bytes without control characters"));
        }
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
    }
    check(problems)?;
    let added = core.store.suppress(&entries, core.clock.now()).await?;
    done(core, actor, "suppression.add", format!("{} entries, {added} new", entries.len()), &[Wake::Changed]).await?;
    Ok(added)
}

/// Adds what recipients said to the webhook of `plugin`: they want no more messages. Returns how many are new.
///
/// # Errors
/// When the store is away: nothing may be taken for done then.
pub async fn opt_out(core: &Core, plugin: &str, entries: &[NewSuppression]) -> Result<u32> {
    let added = core.store.suppress(entries, core.clock.now()).await?;
    if added > 0 {
        let subject = format!("{added} new, said to the webhook of {plugin}");
        done(core, &Actor::new("system"), "suppression.add", subject, &[Wake::Changed]).await?;
    }
    Ok(added)
}

/// Takes entries (address and channel, exactly) off the list. Returns how many went.
///
/// # Errors
/// When the store is away.
pub async fn remove(core: &Core, actor: &Actor, entries: Vec<(String, Option<String>)>) -> Result<u32> {
    if entries.is_empty() {
        return Err(OpError::invalid("", "give at least one entry"));
    }
    let entries: Vec<_> = entries.into_iter().map(|(a, c)| (a.trim().to_owned(), c)).collect();
    let removed = core.store.unsuppress(&entries, core.clock.now()).await?;
    done(core, actor, "suppression.remove", format!("{removed} entries"), &[Wake::Changed]).await?;
    Ok(removed)
}

/// The list, by address.
///
/// # Errors
/// When the store is away.
pub async fn list(
    core: &Core,
    address: Option<&str>,
    cursor: Option<(String, String)>,
    limit: u32,
) -> Result<Page<Suppression, (String, String)>> {
    Ok(core.store.suppressions(address.map(str::trim), cursor, limit).await?)
}

/// What is wrong with an address, without the address.
pub(crate) fn address_problem(address: &str) -> Option<&'static str> {
    if address.is_empty() {
        Some("the address is empty")
    } else if address.len() > MAX_ADDRESS {
        Some("the address is longer than 1024 bytes")
    } else if address.chars().any(char::is_control) {
        Some("the address has control characters")
    } else {
        None
    }
}

fn channel_problem(channel: Option<&str>) -> Option<&'static str> {
    channel
        .is_some_and(|c| !is_word(c))
        .then_some("give 1 to 64 letters, digits, - or _, or leave it out for every channel")
}
