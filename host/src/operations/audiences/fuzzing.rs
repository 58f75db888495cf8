//! Imports as strangers write them: what is accepted can be stored, what is rejected is named without its values.

use std::sync::Arc;

use tokio::io::AsyncReadExt as _;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::egress::{Egress, EgressPolicy};
use crate::id::HostId;
use crate::metrics::Metrics;
use crate::plugins::{PluginHost, PluginLimits, Registry};
use crate::queue::memory::MemoryQueue;

/// The longest reason: it names a column, never a value.
const MAX_REASON: usize = 300;

struct Bed {
    runtime: Runtime,
    core: Core,
    _folder: tempfile::TempDir,
}

impl Bed {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let clock = Arc::new(SystemClock::new());
        let plugin_host = PluginHost::new(PluginLimits { instances: 1, ..PluginLimits::default() }, None)?;
        let config = Config { data: folder.path().to_owned(), ..Config::default() };
        let core = Core {
            host: HostId::new(),
            store: runtime.block_on(crate::store::open(&config.store_url(), 1))?,
            queue: Arc::new(MemoryQueue::new(clock.clone())),
            plugins: Arc::new(Registry::new(plugin_host.clone())),
            plugin_host,
            egress: Egress::new(EgressPolicy::default())?,
            clock,
            config: Arc::new(config),
            metrics: Arc::new(Metrics::new()),
            accounts: Arc::default(),
            hosts: Arc::default(),
            store_trouble: Arc::default(),
        };
        Ok(Self { runtime, core, _folder: folder })
    }
}

thread_local! {
    static BED: anyhow::Result<Bed> = Bed::new();
}

/// Reads an upload that arrives in two pieces.
pub fn import(format: Format, bytes: &[u8]) {
    BED.with(|bed| {
        let bed = bed.as_ref().map_err(|e| e.to_string());
        assert!(bed.is_ok(), "{:?}", bed.err());
        if let Ok(bed) = bed {
            bed.runtime.block_on(read(&bed.core, format, bytes));
        }
    });
}

async fn read(core: &Core, format: Format, bytes: &[u8]) {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let reader = first.chain(second);
    let mut sink = Sink::new(core, "fuzz");
    let read = match format {
        Format::Csv => csv::read(reader, &mut sink).await,
        Format::Ndjson => ndjson::read(reader, &mut sink).await,
    };
    assert!(!matches!(&read, Err(Broken::Operation(OpError::Internal(_)))));
    assert!(columns_problem(sink.columns.iter().map(String::as_str)).is_none());
    assert_eq!(sink.batch.len(), sink.lines.len());
    for contact in &sink.batch {
        assert!(address_problem(&contact.address).is_none());
        assert!(contact.zone.as_ref().is_none_or(|zone| TimeZone::get(zone).is_ok()));
        let variables = serde_json::from_str::<Vec<(String, String)>>(&contact.variables).unwrap_or_default();
        assert!(contact.variables == "[]" || !variables.is_empty());
        assert!(variables.iter().all(|(name, value)| is_variable(name) && !value.contains('\0')));
    }
    assert!(sink.lines.is_sorted() && sink.lines.first().is_none_or(|line| *line > 0));
    for rejected in &sink.report.rejected {
        assert!(rejected.line > 0 && rejected.reason.len() <= MAX_REASON, "{rejected:?}");
    }
    assert!(sink.report.rejected.len() <= MAX_LISTED);
    sink.abort().await;
}
