//! The plugin host: loads components, calls them within limits, and keeps the registry of active versions.
//!
//! This module and those below it are the only ones that import `wasmtime`. Everything else sees plugins as
//! [`Plugin`] handles and plain Rust values.

/// Loads and calls components.
#[derive(Clone)]
pub struct PluginHost;

/// The active and pinned plugin versions.
pub struct Registry;
