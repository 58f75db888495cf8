//! The plugin host: loads components, calls them within limits, and keeps the registry of active versions.
//!
//! This module and those below it are the only ones that import `wasmtime`. Everything else sees plugins as
//! [`Plugin`] handles and plain Rust values.
