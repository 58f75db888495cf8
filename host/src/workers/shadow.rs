//! Shadow calls: what a candidate would have answered. Each is made after the stable version's answer is in use, on a thread that
//! comes after the others, and left out when too many wait; its answer is compared and thrown away. A shadow sender is only
//! asked what it would do first.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::core::Core;
use crate::device::Device;
use crate::id::MessageId;
use crate::plugins::PluginFault;
use crate::rollout::Differences;
use crate::trial::Trial;

/// Shadow calls that are made or wait, on a server.
const WAITING: usize = 64;

/// The shadow calls of a server.
pub struct Shadows {
    core: Core,
    room: Arc<Semaphore>,
}

impl Shadows {
    /// None yet.
    pub fn new(core: Core) -> Self {
        Self { core, room: Arc::new(Semaphore::new(WAITING)) }
    }

    /// Makes a call in the background, and has its answer compared.
    pub fn cast<T, C, D>(&self, trial: &Arc<Trial>, message: MessageId, device: &Device, call: C, compare: D)
    where
        T: Send + 'static,
        C: Future<Output = Result<T, PluginFault>> + Send + 'static,
        D: FnOnce(&mut Differences, &Result<T, PluginFault>) + Send + 'static,
    {
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            trial.dropped();
            return;
        };
        let (core, trial, device) = (self.core.clone(), Arc::clone(trial), device.spec.id.clone());
        tokio::spawn(async move {
            let answer = core.plugin_host.aside(call).await;
            if let Some(answer) = answer {
                let mut differences = Differences::new(trial.secrecy());
                compare(&mut differences, &answer);
                trial.compared(core.clock.now(), message, device.as_str(), differences, answer.is_err());
            }
            drop(permit);
        });
    }
}
