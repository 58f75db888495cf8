//! Carillon: a broadcast engine for fleets of sending devices, programmable with WebAssembly.
//!
//! Data flows through it like this:
//!
//! ```text
//! http, ui, cli ──▶ store (SQL: the truth) ◀── trigger: campaigns and steps that are due become pending messages
//!                        │  ▲
//!              processor ▼  │ workers: begin ▸ render ▸ send ▸ settle        recovery: leases, orphans, drift
//!                   queue (Redis or memory: an index) ──▶ workers ──▶ plugins (WASM) ──▶ egress ──▶ providers
//! ```
//!
//! The loops never call each other: they meet through the [`store`], the [`queue`] and a wake-up.

pub mod campaign;
pub mod clock;
pub mod config;
pub mod consent;
pub mod core;
pub mod device;
<<<<<<< HEAD
pub mod egress;
=======
pub mod http;
>>>>>>> wt-api
pub mod id;
pub mod message;
pub mod metrics;
pub mod operations;
pub mod plugin;
pub mod plugins;
pub mod queue;
pub mod sequence;
pub mod store;
pub mod ui;
pub mod window;
