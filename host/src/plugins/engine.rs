//! The engine that runs all components of the process, and the thread that ends calls that take too long.

use std::time::Duration;

use anyhow::Context as _;
use wasmtime::component::Linker;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Strategy};

use super::limits::{MAX_MEMORY, MAX_TABLE, PluginLimits};
use super::wasi::{self, Guest};

/// The step in which call deadlines are measured.
const TICK: Duration = Duration::from_millis(5);

/// An engine, and what it offers to components.
pub(super) struct Machine {
    pub engine: Engine,
    pub linker: Linker<Guest>,
}

impl Machine {
    /// Reserves the pool's address space and starts the deadline thread, which ends with the engine.
    pub(super) fn new(limits: &PluginLimits) -> anyhow::Result<Self> {
        anyhow::ensure!(
            limits.memory_bytes <= MAX_MEMORY,
            "a plugin instance can have at most {} MiB of memory",
            MAX_MEMORY >> 20
        );
        let engine = Engine::new(&config(limits)).map_err(anyhow::Error::from).with_context(|| {
            format!(
                "cannot reserve address space for {} plugin instances (about {} GiB, not backed by memory): raise the \
                 process's address space limit (ulimit -v) or set vm.overcommit_memory to 0 or 1",
                limits.instances,
                (limits.instances as usize * MAX_MEMORY) >> 30
            )
        })?;
        let weak = engine.weak();
        std::thread::Builder::new()
            .name("plugin-deadlines".to_owned())
            .spawn(move || {
                while let Some(engine) = weak.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            })
            .context("cannot start the thread that ends plugin calls")?;
        let linker = wasi::linker(&engine)?;
        Ok(Self { engine, linker })
    }

    /// A time limit in steps of the deadline thread; never shorter than asked for.
    pub(super) fn ticks(limit: Duration) -> u64 {
        u64::try_from(limit.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// The settings of the engine.
pub(super) fn config(limits: &PluginLimits) -> Config {
    // Sized for Python and JavaScript guests, whose components are made of up to 40 core instances.
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(limits.instances)
        .total_core_instances(limits.instances.saturating_mul(8))
        .total_memories(limits.instances)
        .total_tables(limits.instances.saturating_mul(4))
        .total_stacks(0)
        .max_memory_size(MAX_MEMORY)
        .table_elements(MAX_TABLE)
        .max_core_instance_size(4 << 20)
        .max_component_instance_size(10 << 20)
        .max_core_instances_per_component(64)
        .max_tables_per_component(64)
        .max_memories_per_component(8)
        .max_tables_per_module(64)
        .max_memories_per_module(8);

    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_reservation(MAX_MEMORY as u64)
        .memory_init_cow(true)
        .epoch_interruption(true)
        .wasm_component_model(true)
        .wasm_memory64(false)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(8));
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_shorter_than_asked_for() {
        assert_eq!(Machine::ticks(Duration::from_millis(1)), 2);
        assert_eq!(Machine::ticks(Duration::from_millis(250)), 51);
    }

    #[test]
    fn the_pool_can_be_reserved() {
        Machine::new(&PluginLimits::default()).unwrap();
    }
}
