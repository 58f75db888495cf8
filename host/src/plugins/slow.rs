//! Threads for plugin calls that are slow or of unknown length, and for the upload check. They come after the threads that send
//! when the machine is busy, so that a loop without end takes what they leave.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

/// How much later they come, as a nice value: about a tenth of another thread's share while both want the processor, which
/// brings a call of a few milliseconds to its end within its deadline on the busiest machine.
pub(super) const NICENESS: i32 = 10;

/// Threads at once, for whatever: uploads, shadows and cases have bounds of their own that add up to less.
const THREADS: usize = 500;

/// The threads: started when they are wanted, ended when they are not.
pub(super) struct Slow {
    runtime: Option<Runtime>,
    calls: Semaphore,
}

impl Slow {
    /// At most so many calls at once. A call is nothing but processor time: more of them than cores would end none sooner,
    /// and together they would outweigh the threads that send, however far each of them stands back.
    pub(super) fn new(calls: usize) -> io::Result<Self> {
        // Only its blocking pool is used: nobody drives the rest, so it has no threads of its own.
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(THREADS)
            .thread_name("plugin-slow")
            .on_thread_start(step_back)
            .build()?;
        Ok(Self { runtime: Some(runtime), calls: Semaphore::new(calls) })
    }

    /// Does the work on one of the threads; `None` when it panicked.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.runtime.as_ref()?.spawn_blocking(work).await.ok()
    }

    /// Makes a call, when its turn comes: first come, first served.
    pub(super) async fn call<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let _permit = self.calls.acquire().await.ok()?;
        self.run(call).await
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A call that loops ends with its deadline; nobody waits for it here.
            runtime.shutdown_background();
        }
    }
}

/// On Linux a nice value is the calling thread's own; elsewhere it is the whole process's, and stays as it is.
fn step_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "a thread for slow plugins keeps its priority");
    }
}
