//! What is counted about a plugin version's calls.

use std::sync::atomic::{AtomicU64, Ordering};

use super::types::PluginFault;

/// A function of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    NextDelay,
    Render,
    Variables,
    Start,
    Resume,
    StartLookup,
    ResumeLookup,
    Parse,
    StartHealth,
    ResumeHealth,
}

const FUNCTIONS: [(Function, &str); 10] = [
    (Function::NextDelay, "next-delay"),
    (Function::Render, "render"),
    (Function::Variables, "variables"),
    (Function::Start, "start"),
    (Function::Resume, "resume"),
    (Function::StartLookup, "lookup-start"),
    (Function::ResumeLookup, "lookup-resume"),
    (Function::Parse, "parse"),
    (Function::StartHealth, "health-start"),
    (Function::ResumeHealth, "health-resume"),
];

/// Counts of one function since the version was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FunctionStats {
    /// The function's name in the WIT.
    pub function: &'static str,
    /// Calls.
    pub calls: u64,
    /// Calls that ended in a crash.
    pub traps: u64,
    /// Calls that ran into the time limit.
    pub deadlines: u64,
    /// Calls that ran into the memory limit.
    pub memory: u64,
    /// Calls with an answer that is not allowed.
    pub invalid_output: u64,
    /// Calls that ended in an error of the plugin's own.
    pub errors: u64,
    /// Time that all calls took together, in microseconds.
    pub total_us: u64,
}

/// Counts of a plugin version since it was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallStats {
    /// Functions that were called.
    pub functions: Vec<FunctionStats>,
    /// Instances that wait for their next call.
    pub idle_instances: usize,
}

impl CallStats {
    /// The counts of a function by its name in the WIT.
    pub fn of(&self, function: &str) -> Option<&FunctionStats> {
        self.functions.iter().find(|f| f.function == function)
    }
}

#[derive(Default)]
struct Counters {
    calls: AtomicU64,
    traps: AtomicU64,
    deadlines: AtomicU64,
    memory: AtomicU64,
    invalid_output: AtomicU64,
    errors: AtomicU64,
    total_us: AtomicU64,
}

#[derive(Default)]
pub(super) struct Stats([Counters; FUNCTIONS.len()]);

impl Stats {
    /// Counts a call.
    pub(super) fn count(&self, function: Function, took_us: u64, fault: Option<&PluginFault>) {
        let Some(counters) = self.0.get(function as usize) else { return };
        counters.calls.fetch_add(1, Ordering::Relaxed);
        counters.total_us.fetch_add(took_us, Ordering::Relaxed);
        if let Some(fault) = fault {
            self.count_fault(function, fault);
        }
    }

    /// Counts a fault that was found after its call was counted.
    pub(super) fn count_fault(&self, function: Function, fault: &PluginFault) {
        let Some(counters) = self.0.get(function as usize) else { return };
        match fault {
            PluginFault::Trap(_) => &counters.traps,
            PluginFault::Deadline => &counters.deadlines,
            PluginFault::Memory => &counters.memory,
            PluginFault::Output(_) => &counters.invalid_output,
            PluginFault::InvalidConfig(_) | PluginFault::InvalidInput(_) | PluginFault::Internal(_) => &counters.errors,
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, idle_instances: usize) -> CallStats {
        let functions = FUNCTIONS
            .iter()
            .zip(&self.0)
            .map(|((_, function), c)| FunctionStats {
                function,
                calls: c.calls.load(Ordering::Relaxed),
                traps: c.traps.load(Ordering::Relaxed),
                deadlines: c.deadlines.load(Ordering::Relaxed),
                memory: c.memory.load(Ordering::Relaxed),
                invalid_output: c.invalid_output.load(Ordering::Relaxed),
                errors: c.errors.load(Ordering::Relaxed),
                total_us: c.total_us.load(Ordering::Relaxed),
            })
            .filter(|f| f.calls > 0)
            .collect();
        CallStats { functions, idle_instances }
    }
}
