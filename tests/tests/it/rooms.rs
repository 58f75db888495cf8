//! The house rules that a compiler does not check: which module may import what, that the two SQL backends keep step, and that
//! what documents point to is there.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// `sqlx`, `redis` and `wasmtime` stay in their rooms, and the domain does no I/O.
#[test]
fn libraries_stay_in_their_rooms() {
    let src = root().join("host/src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let rooms = [("sqlx", "store"), ("redis", "queue"), ("wasmtime", "plugins"), ("hyper_rustls", "egress")];
    let domain = [
        "campaign.rs",
        "message.rs",
        "device.rs",
        "sequence.rs",
        "consent.rs",
        "window.rs",
        "plugin.rs",
        "id.rs",
        "receipt.rs",
    ];
    for file in files {
        let name = file.strip_prefix(&src).expect("below src").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).expect("text");
        for (line_no, line) in text.lines().enumerate() {
            let code = line.trim_start();
            if code.starts_with("//") {
                continue;
            }
            for (library, room) in rooms {
                let imports = code.starts_with(&format!("use {library}::"))
                    || code.contains(&format!(" {library}::"))
                    || code.contains(&format!("({library}::"))
                    || code.contains(&format!("<{library}::"));
                let at_home = name == format!("{room}.rs") || name.starts_with(&format!("{room}/"));
                assert!(!imports || at_home, "{name}:{}: {library} belongs into {room}", line_no + 1);
            }
            if domain.contains(&name.as_str()) {
                for library in ["tokio::", "std::fs", "std::net", "crate::store", "crate::queue::", "crate::core"] {
                    assert!(
                        !code.starts_with(&format!("use {library}")),
                        "{name}:{}: the domain does no I/O",
                        line_no + 1
                    );
                }
            }
        }
    }
}

/// The four loops meet through store, queue and wake-ups only.
#[test]
fn the_loops_do_not_call_each_other() {
    let src = root().join("host/src");
    let loops = ["trigger", "processor", "workers", "recovery"];
    // What they share is not a loop: a list of low queues, and how an abandoned message is settled.
    let shared = [
        "crate::processor::Requests",
        "crate::workers::orphans",
        "crate::workers::breakers",
        "crate::workers::Pool",
        "crate::workers::{Pool, orphans}",
        "crate::workers::pacing::LAZY",
    ];
    for name in loops {
        let text = std::fs::read_to_string(src.join(format!("{name}.rs"))).expect("a loop");
        for line in text.lines().filter(|l| l.starts_with("use crate::")) {
            let other = loops.iter().filter(|o| **o != name).find(|o| line.contains(&format!("crate::{o}")));
            assert!(other.is_none() || shared.iter().any(|s| line.contains(s)), "{name}.rs: {line}");
        }
    }
}

/// Same numbers and names on both sides.
#[test]
fn the_migrations_of_both_backends_keep_step() {
    let names = |backend: &str| {
        let mut names: Vec<_> = std::fs::read_dir(root().join("migrations").join(backend))
            .expect("migrations")
            .map(|e| e.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("postgres"), names("sqlite"));
    assert!(!names("postgres").is_empty());
}

/// A scope that no token can have would lock everybody but administrators out.
#[test]
fn every_scope_that_is_asked_for_can_be_given() {
    let mut files = Vec::new();
    rust_files(&root().join("host/src"), &mut files);
    let templates = std::fs::read_dir(root().join("host/templates")).expect("a folder");
    files.extend(templates.map(|entry| entry.expect("an entry").path()));
    let mut asked = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).expect("text");
        for word in text.split('"').skip(1) {
            let is_scope = word.split_once(':').is_some_and(|(what, how)| {
                (how == "read" || how == "write") && !what.is_empty() && what.bytes().all(|b| b.is_ascii_lowercase())
            });
            if is_scope {
                asked += 1;
                let given = carillon::operations::tokens::SCOPES.contains(&word);
                assert!(given, "{}: there is no scope {word}", file.display());
            }
        }
    }
    assert!(asked > 50, "{asked} scopes were found");
}

/// Whoever reads that a test proves something finds it.
#[test]
fn every_test_that_a_document_cites_is_there() {
    let mut files = Vec::new();
    for folder in ["host/src", "tests/src", "tests/tests"] {
        rust_files(&root().join(folder), &mut files);
    }
    let sources: String = files.iter().map(|file| std::fs::read_to_string(file).expect("text")).collect();
    let mut cited = 0;
    for document in
        ["README.md", "SECURITY.md", "docs/RELIABILITY.md", "docs/HOSTILE-INPUT.md", "docs/HOSTILE-PLUGINS.md"]
    {
        let text = std::fs::read_to_string(root().join(document)).expect("a document");
        for word in text.split('`').skip(1).step_by(2) {
            let name = word.rsplit("::").next().unwrap_or(word);
            let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_…".contains(c));
            // Tests are sentences; figures are not, and have a prefix.
            if !is_name || name.matches('_').count() < 3 || name.starts_with("carillon_") {
                continue;
            }
            cited += 1;
            let there = match name.strip_prefix('…') {
                Some(end) => sources.contains(&format!("{end}(")),
                None => sources.contains(&format!("fn {name}(")),
            };
            assert!(there, "{document}: there is no test {word}");
        }
    }
    assert!(cited > 50, "{cited} tests were found");
}

/// A link within the repository leads to a file.
#[test]
fn every_link_of_a_document_leads_somewhere() {
    let mut documents: Vec<PathBuf> = Vec::new();
    for folder in ["", "docs", "plugins", "wit", "examples/deploy", "examples/monitoring"] {
        let entries = std::fs::read_dir(root().join(folder)).expect("a folder").map(|e| e.expect("an entry").path());
        documents.extend(entries.filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    let mut links = 0;
    for document in documents {
        let text = std::fs::read_to_string(&document).expect("text");
        // What stands between fences or backticks is code.
        for part in text.split("```").step_by(2) {
            let prose: String = part.split('`').step_by(2).collect();
            for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let path = link.split('#').next().unwrap_or_default();
                if path.contains(':') || path.is_empty() {
                    continue;
                }
                links += 1;
                let target = document.parent().expect("a folder").join(path);
                assert!(target.exists(), "{}: {link} leads nowhere", document.display());
            }
        }
    }
    assert!(links > 50, "{links} links were found");
}
