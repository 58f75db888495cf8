//! Carillon: a broadcast engine for fleets of sending devices, programmable with WebAssembly.
//!
//! Data flows through it like this:
//!
//! ```text
//! http, ui, cli ──▶ store (SQL: the truth) ◀── trigger: campaigns and steps that are due become pending messages
//!                        │  ▲
//!              processor ▼  │ workers: turn ▸ render ▸ send ▸ turn           recovery: leases, orphans, drift
//!                   queue (Redis or memory: an index) ──▶ workers ──▶ plugins (WASM) ──▶ egress ──▶ providers
//! ```
//!
//! The loops never call each other: they meet through the [`store`], the [`queue`] and a wake-up.

pub mod accounts;
pub mod app;
pub mod campaign;
pub mod case;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod consent;
pub mod core;
pub mod device;
pub mod egress;
pub mod exchange;
pub mod fleet;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod grants;
pub mod health;
pub mod hook;
pub mod http;
pub mod id;
mod json;
pub mod lifecycle;
pub mod lookup;
pub mod message;
pub mod metrics;
pub mod operations;
pub mod plugin;
pub mod plugins;
pub mod processor;
pub mod queue;
pub mod receipt;
pub mod recovery;
pub mod resolution;
pub mod rollout;
pub mod sampler;
pub mod sequence;
pub mod store;
pub mod trial;
pub mod trials;
pub mod trigger;
pub mod ui;
pub mod vault;
pub mod window;
pub mod workers;
