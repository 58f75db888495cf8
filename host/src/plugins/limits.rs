//! What a plugin may use and answer, and the bookkeeping of one instance's memory.

use std::time::Duration;

use wasmtime::ResourceLimiter;

use super::apart::CompileLimits;

/// The limits of every plugin. Sizes are in bytes.
#[derive(Debug, Clone)]
pub struct PluginLimits {
    /// All memories of an instance together (default 64 MiB, at most 128 MiB).
    pub memory_bytes: usize,
    /// How long a call may take on the wall clock (default 250 ms); measured in steps of 5 ms.
    pub call_deadline: Duration,
    /// How long making an instance may take, and `describe` (default 2 s).
    pub describe_deadline: Duration,
    /// Size of an uploaded component (default 64 MiB).
    pub max_component_bytes: usize,
    /// One rendered message: text, subject, media and attributes together (default 256 KiB).
    pub content_bytes: usize,
    /// What a delay strategy keeps for a device (default 4 KiB).
    pub pace_state_bytes: usize,
    /// What a sender keeps between requests, and for an account (default 16 KiB each).
    pub send_state_bytes: usize,
    /// A request's URL (default 8 KiB).
    pub url_bytes: usize,
    /// A request's headers: names and values together (default 32 KiB).
    pub header_bytes: usize,
    /// A request's headers (default 64).
    pub headers: usize,
    /// A request's body (default 1 MiB).
    pub body_bytes: usize,
    /// Lines of a plugin's output that are kept, the latest (default 100, of at most 500 bytes).
    pub log_lines: usize,
    /// Calls that an instance serves before it is dropped (default 10,000).
    pub calls_per_instance: u32,
    /// Instances of a plugin version that wait for their next call (default 16).
    pub idle_per_plugin: usize,
    /// Calls of a plugin version at once off the workers' threads, while it is slow or unknown (default: half of the cores).
    pub slow_calls_per_plugin: usize,
    /// Calls of a slow plugin version that may wait for their turn before its devices are put off (default 100).
    pub slow_calls_waiting: usize,
    /// Instances of all plugins together (default 1,000).
    pub instances: u32,
    /// Compile in a process of its own, within these limits, where compiled code is kept; in this process and without limits
    /// when absent (the default). The program must know the subcommand `SUBCOMMAND` of this module.
    pub compile_apart: Option<CompileLimits>,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            call_deadline: Duration::from_millis(250),
            describe_deadline: Duration::from_secs(2),
            max_component_bytes: 64 << 20,
            content_bytes: 256 << 10,
            pace_state_bytes: 4 << 10,
            send_state_bytes: 16 << 10,
            url_bytes: 8 << 10,
            header_bytes: 32 << 10,
            headers: 64,
            body_bytes: 1 << 20,
            log_lines: 100,
            calls_per_instance: 10_000,
            idle_per_plugin: 16,
            slow_calls_per_plugin: (super::cores() / 2).max(1),
            slow_calls_waiting: 100,
            instances: 1_000,
            compile_apart: None,
        }
    }
}

/// The largest memory that the pool has room for.
pub(super) const MAX_MEMORY: usize = 128 << 20;
/// The largest table: Python guests need some thousand elements.
pub(super) const MAX_TABLE: usize = 100_000;

/// Counts the memories of one instance together.
#[derive(Debug)]
pub(super) struct Limiter {
    used: usize,
    limit: usize,
    /// Whether a growth (of a memory or a table) was refused: tells a crash for want of memory from any other.
    pub refused: bool,
}

impl Limiter {
    pub(super) const fn new(limit: usize) -> Self {
        Self { used: 0, limit, refused: false }
    }

    /// The memories together, in bytes.
    pub(super) const fn used(&self) -> usize {
        self.used
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used.saturating_sub(current).saturating_add(desired);
        if used > self.limit || maximum.is_some_and(|max| desired > max) {
            self.refused |= used > self.limit;
            return Ok(false);
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.refused |= desired > MAX_TABLE;
        Ok(desired <= MAX_TABLE && maximum.is_none_or(|max| desired <= max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_of_an_instance_count_together() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert!(!limiter.refused);
        assert!(!limiter.memory_growing(40, 41, None).unwrap());
        assert!(limiter.refused);
    }
}
