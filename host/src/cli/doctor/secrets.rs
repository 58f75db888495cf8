//! Stored secrets, and the keys that they are encrypted with.

use std::collections::BTreeMap;

use super::Findings;
use crate::vault::{Sealed, Vault};

/// Names of secrets in one line at most.
const NAMES: usize = 20;

/// Whether there are keys. Keys that do not read are said among the settings, and are none to go on with.
pub fn keys(text: Option<&str>, findings: &mut Findings) -> Option<Vault> {
    let vault = Vault::parse(text).ok()?;
    match vault.current() {
        Ok(id) => findings.ok("secrets", format!("CARILLON_SECRETS_KEY is set; its key {id} encrypts")),
        Err(_) => findings.ok("secrets", "CARILLON_SECRETS_KEY is not set: the store can keep no secret"),
    }
    Some(vault)
}

/// Whether the keys open every secret of the store. A server that makes no requests does without those that they do not.
pub fn stored(vault: &Vault, stored: &[Sealed], makes_requests: bool, findings: &mut Findings) {
    let mut closed: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for sealed in stored {
        if let Err(error) = vault.open(sealed) {
            closed.entry(error.to_string()).or_default().push(&sealed.name);
        }
    }
    if closed.is_empty() && !stored.is_empty() {
        findings.ok("secrets", format!("all {} in the store can be opened", stored.len()));
    }
    for (problem, names) in closed {
        let shown = names.iter().take(NAMES).copied().collect::<Vec<_>>().join(" ");
        let rest = if names.len() > NAMES { " …" } else { "" };
        let text =
            format!("{} of {} in the store cannot be opened ({shown}{rest}): {problem}", names.len(), stored.len());
        if makes_requests {
            findings.change("secrets", text);
        } else {
            findings.advise("secrets", format!("{text}; roles that make requests need it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;

    #[test]
    fn a_secret_that_no_key_opens_must_change_something() {
        let (old, new) = (Vault::new_key(), Vault::new_key());
        let vault = |text: &str| Vault::parse(Some(text)).unwrap();
        let seal = |key: &str, name: &str| vault(key).seal(name, "api.example.com", "hush", Time::from_ms(1)).unwrap();
        let mut damaged = seal(&new, "C");
        damaged.ciphertext.clear();
        let must_change = |vault: &Vault, secrets: &[Sealed], makes_requests| {
            let mut findings = Findings::default();
            stored(vault, secrets, makes_requests, &mut findings);
            findings.must_change
        };
        let secrets = [seal(&old, "A"), seal(&old, "B"), seal(&new, "D")];
        assert_eq!(must_change(&vault(&format!("{new},{old}")), &secrets, true), 0);
        assert_eq!(must_change(&vault(&new), &secrets, true), 1, "one line for both of the old key");
        assert_eq!(must_change(&vault(&new), &[seal(&old, "A"), damaged], true), 2);
        assert_eq!(must_change(&Vault::default(), &secrets, true), 1);
        assert_eq!(must_change(&Vault::default(), &secrets, false), 0);
        assert_eq!(must_change(&Vault::default(), &[], true), 0);
    }

    #[test]
    fn keys_may_be_missing_and_must_read() {
        let mut findings = Findings::default();
        assert!(keys(None, &mut findings).is_some_and(|vault| vault.current().is_err()));
        assert!(keys(Some(&Vault::new_key()), &mut findings).is_some_and(|vault| vault.current().is_ok()));
        assert!(keys(Some("hush"), &mut findings).is_none());
        assert_eq!(findings.must_change, 0, "the settings' problems are counted where all of them are");
    }
}
