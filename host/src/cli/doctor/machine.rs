//! What the machine gives a server: folder, limits, names that resolve.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Findings;
use crate::egress::Allowed;

/// Files beside connections of senders: databases, plugins, logs, API clients.
const OTHER_FILES: u64 = 512;
/// Mappings for a few hundred plugin instances, four each, and the rest of the process.
const MAPPINGS: u64 = 65_530;

/// The data folder can be made, written, and looked into by nobody else.
pub fn data_folder(path: &Path, findings: &mut Findings) {
    let shown = path.display();
    if !path.exists() {
        return findings.ok("data", format!("{shown} does not exist yet; a server makes it"));
    }
    let probe = path.join(".doctor");
    if let Err(error) = std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe)) {
        return findings.change("data", format!("--data: {shown} cannot be written: {error}"));
    }
    match std::fs::metadata(path) {
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            findings.change("data", format!("others can look into {shown}: chmod 700 {shown}"));
        }
        Ok(_) => findings.ok("data", format!("{shown} is writable and private")),
        Err(error) => findings.change("data", format!("{shown}: {error}")),
    }
}

/// Open files and memory mappings, where the kernel tells.
pub fn limits(max_workers: u32, findings: &mut Findings) {
    let wanted = u64::from(max_workers) + OTHER_FILES;
    match open_files() {
        Some(limit) if limit < wanted => {
            findings
                .change("files", format!("{limit} open files are allowed; {wanted} are needed: ulimit -n {wanted}"));
        }
        Some(limit) => findings.ok("files", format!("{limit} open files are allowed")),
        None => findings.advise("files", "the limit on open files cannot be read here"),
    }
    let maps = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|t| t.trim().parse::<u64>().ok());
    match maps {
        Some(limit) if limit < MAPPINGS => {
            findings.change("mappings", format!("vm.max_map_count is {limit}: sysctl -w vm.max_map_count={MAPPINGS}"))
        }
        Some(limit) => findings.ok("mappings", format!("vm.max_map_count is {limit}")),
        None => findings.advise("mappings", "vm.max_map_count cannot be read here"),
    }
}

/// The soft limit on open files.
fn open_files() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

/// Every entry of the allow-list reads as one, and its name resolves.
pub async fn egress(allow: &[String], findings: &mut Findings) {
    if allow.is_empty() {
        findings.ok("egress", "public addresses only; private and loopback ones need --allow-egress HOST:PORT");
    }
    for entry in allow {
        if let Err(error) = entry.parse::<Allowed>() {
            findings.change("egress", format!("--allow-egress: {error}"));
            continue;
        }
        let resolves = tokio::net::lookup_host(entry.trim()).await.is_ok_and(|mut found| found.next().is_some());
        if resolves {
            findings.ok("egress", format!("{entry} is allowed"));
        } else {
            findings.advise("egress", format!("{entry} is allowed, but its name does not resolve here"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_folder_is_to_be_closed() {
        let folder = tempfile::tempdir().unwrap();
        let mut findings = Findings::default();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        data_folder(folder.path(), &mut findings);
        assert_eq!(findings.must_change, 0);
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        data_folder(folder.path(), &mut findings);
        assert_eq!(findings.must_change, 1);
    }

    #[tokio::test]
    async fn a_broken_allow_list_is_named() {
        let mut findings = Findings::default();
        egress(&["127.0.0.1:9000".to_owned()], &mut findings).await;
        assert_eq!(findings.must_change, 0);
        egress(&["http://x".to_owned()], &mut findings).await;
        assert_eq!(findings.must_change, 1);
        assert!(open_files().is_some());
    }
}
